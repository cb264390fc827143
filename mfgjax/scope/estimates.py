"""Everything the scope card reads, per layer and weighting of the texts."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfgjax.dynamics.layer_estimates import LayerEstimates, estimate_layers
from mfgjax.equilibrium.batch import solve_rows
from mfgjax.estimate.congestion.diagnostics import safety_margin
from mfgjax.estimate.inference.quality import estimate_quality_and_load
from mfgjax.scope.bounds import anti_concentration_bound
from mfgjax.scope.contraction import l1_rate, spectral_rate, worst_case_rate
from mfgjax.trace.schema import TextStatistics


class ScopeEstimates(eqx.Module):
    """Diagnostics of Section 5 of arXiv 2604.04230. Dimensionless, logit units, temperature 1.

    Attributes:
        congestion: L1 estimate, >= 0.
        dispersion_excess: signed estimate minus the dispersion null.
        safety_margin: congestion over gamma_c.
        worst_case_rate: contraction rate over all loads.
        l1_rate: at the equilibrium.
        spectral_rate: at the equilibrium.
        equilibrium_distance: L1 from the equilibrium at the estimate to the observed load.
        uniform_distance: L1 from the uniform load to the observed one.
        max_load: largest dispatch fraction.
        max_load_bound: Theorem 5.2 on that of the equilibrium, `1/M + B0/congestion`; 1 where vacuous.
    """

    congestion: Float[Array, "*batch layer"]
    dispersion_excess: Float[Array, "*batch layer"]
    safety_margin: Float[Array, "*batch layer"]
    worst_case_rate: Float[Array, "*batch layer"]
    l1_rate: Float[Array, "*batch layer"]
    spectral_rate: Float[Array, "*batch layer"]
    equilibrium_distance: Float[Array, "*batch layer"]
    uniform_distance: Float[Array, "*batch layer"]
    max_load: Float[Array, "*batch layer"]
    max_load_bound: Float[Array, "*batch layer"]


def estimate_scope(
    statistics: TextStatistics,
    weights: Float[Array | np.ndarray, "resample text"],
    top_k: int,
    layers: LayerEstimates | None = None,
) -> ScopeEstimates:
    """Scope diagnostics of one checkpoint under each weighting of its texts.

    Args:
        statistics: per-text sums of one checkpoint.
        weights: one row per resample.
        top_k: experts per token. Static.
        layers: estimates under the same weights where they are at hand (of a `Trajectory`):
            computing them here compiles them once more.
    """
    own = estimate_layers(statistics, jnp.asarray(weights), top_k) if layers is None else layers
    quality, load = jax.device_get(_mean_quality_and_load(statistics, weights))
    solved = solve_rows(quality.reshape(-1, quality.shape[-1]), np.ravel(own.congestion))
    return _diagnose(load, solved.load.reshape(load.shape), own)


# With the equilibria elsewhere: a report solves others of the same shape.
_mean_quality_and_load = jax.jit(estimate_quality_and_load)


@jax.jit
def _diagnose(
    load: Float[Array, "resample layer expert"],
    equilibrium: Float[Array, "resample layer expert"],
    layers: LayerEstimates,
) -> ScopeEstimates:
    experts, congestion = load.shape[-1], layers.congestion
    return ScopeEstimates(
        congestion=congestion,
        dispersion_excess=layers.signed - layers.dispersion_null,
        safety_margin=safety_margin(congestion, layers.quality_spread, experts),
        worst_case_rate=worst_case_rate(congestion),
        l1_rate=l1_rate(equilibrium, congestion),
        spectral_rate=spectral_rate(equilibrium, congestion),
        equilibrium_distance=jnp.abs(equilibrium - load).sum(-1),
        uniform_distance=jnp.abs(load - 1 / experts).sum(-1),
        max_load=layers.max_load,
        max_load_bound=anti_concentration_bound(layers.quality_spread, congestion, experts),
    )
