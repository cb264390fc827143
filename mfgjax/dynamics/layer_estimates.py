"""Everything that one weighting of the texts says about each layer of a checkpoint.

Written once for all texts (`estimate_layers`) and once for a block of a bootstrap (`layer_estimator`), where
the estimate of all texts and those of resamples come out of one compiled program.
"""

from functools import lru_cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mfgjax.estimate.congestion.diagnostics import (
    normalized_entropy,
    quality_spread,
    scale_sensitivity,
)
from mfgjax.estimate.congestion.fit import fit_congestion
from mfgjax.estimate.congestion.minima import count_minima
from mfgjax.estimate.congestion.result import CongestionFit
from mfgjax.estimate.congestion.tilt import make_tilt
from mfgjax.estimate.inference.bootstrap import Estimator
from mfgjax.estimate.inference.quality import (
    Quality,
    estimate_dispersion,
    estimate_quality_and_load,
)
from mfgjax.estimate.null.dispersion import null_congestion
from mfgjax.trace.schema import TextStatistics

FROM_ZERO = 1
"""Row of a bootstrap's own rows that is searched from 0 only, as Definition 3.1 is; the others from -2 M."""


class LayerEstimates(eqx.Module):
    """What one weighting of the texts says about each layer. All dimensionless, logit units.

    Attributes:
        congestion: effective congestion of Definition 3.1 (arXiv 2604.04230), global minimum.
        residual: L1 best-response residual at that minimum, 0 to 2.
        minima: local minima of that residual seen on a fixed grid: above 1, a local search could
            have been wrong.
        at_boundary: the minimum sits on congestion = 0.
        status: a `Status`, the worst of the fits; above 0 the estimate is not certified.
        unclipped: the same with a search range that reaches below 0, to -2 M: where the estimate sits
            on 0 its resamples do too, and say nothing about its noise.
        signed: signed maximum-likelihood congestion.
        scale_sensitivity: its derivative in the logarithm of the scale of the logits, at fixed load.
        dispersion_null: congestion that logit dispersion alone produces, without any balancing.
        quality_spread: B0 = max - min of quality.
        entropy: of the load, divided by log M.
        dispersion: token-level standard deviation of the logits, root mean square over experts.
        max_load: largest dispatch fraction.
        dead_experts: experts that no token chose.
    """

    congestion: Float[Array, "*batch layer"]
    residual: Float[Array, "*batch layer"]
    minima: Int[Array, "*batch layer"]
    at_boundary: Bool[Array, "*batch layer"]
    status: Int[Array, "*batch layer"]
    unclipped: Float[Array, "*batch layer"]
    signed: Float[Array, "*batch layer"]
    scale_sensitivity: Float[Array, "*batch layer"]
    dispersion_null: Float[Array, "*batch layer"]
    quality_spread: Float[Array, "*batch layer"]
    entropy: Float[Array, "*batch layer"]
    dispersion: Float[Array, "*batch layer"]
    max_load: Float[Array, "*batch layer"]
    dead_experts: Int[Array, "*batch layer"]


@partial(jax.jit, static_argnames=("top_k", "quality"))
def estimate_layers(
    statistics: TextStatistics,
    weights: Float[Array, "resample text"],
    top_k: int,
    quality: Quality = "mean",
) -> LayerEstimates:
    """Every per-layer estimate of one checkpoint, under each weighting of its texts.

    Not differentiable as a whole (the Definition 3.1 minimiser sits on a kink); see
    `mfgjax.estimate` for fits that are.

    Args:
        statistics: per-text sums of one checkpoint.
        weights: one row per resample, as `mfgjax.estimate.inference.weights.resample_weights` draws them.
        top_k: experts per token. Static.
        quality: what stands for an expert's quality (`estimate_quality_and_load`). Static. The
            dispersion and its null are always of all texts.

    Returns:
        Estimates with the batch axis `resample`.
    """
    value, load = estimate_quality_and_load(statistics, weights, quality)
    unclipped = _search_below(value, load, jnp.full(value.shape[:-1], _below(load)))[1]
    fit = fit_congestion(value, load, "l1")
    return _with_the_rest(statistics, weights, top_k, value, load, fit, unclipped)


@lru_cache
def layer_estimator(top_k: int, quality: Quality = "mean") -> Estimator:
    """`estimate_layers` for one `top_k`, as `mfgjax.estimate.bootstrap_texts` wants it, at half the work.

    The estimate of Definition 3.1 of a row is that of the one search below 0, cut off at 0: the same
    number unless a second minimum lies below 0. Row `FROM_ZERO` of the caller's own rows is searched from
    0 and has its minima counted; `minima` is 1 in all others.
    """

    def estimate(statistics, weights, own):
        value, load = estimate_quality_and_load(statistics, weights, quality)
        row = jnp.arange(len(weights)) == FROM_ZERO
        below = jnp.where(own & row, 0, _below(load)).astype(load.dtype)
        below = jnp.broadcast_to(below[:, None], value.shape[:-1])
        fit, unclipped = _search_below(value, load, below)
        minima = lax.cond(
            own,
            _minima,
            lambda q, mu: jnp.ones(len(q), jnp.int32),
            value[FROM_ZERO],
            load[FROM_ZERO],
        )
        known = fit.minima[FROM_ZERO] > 0
        minima = jnp.where(known, jnp.maximum(minima, 1), 0)
        fit = eqx.tree_at(lambda f: f.minima, fit, fit.minima.at[FROM_ZERO].set(minima))
        return _with_the_rest(statistics, weights, top_k, value, load, fit, unclipped)

    return estimate


def _below(load) -> int:
    return 2 * load.shape[-1]


def _search_below(value, load, below) -> tuple[CongestionFit, Float[Array, "resample layer"]]:
    """Definition 3.1 from a search that begins at `-below`, cut off at 0; and not cut off."""
    # Definition 3.1 of quality + c load is that of quality, plus c: so a search from 0 reaches -c.
    fit = fit_congestion(value + below[..., None] * load, load, "l1", count_minima=False)
    unclipped = fit.congestion - below
    clipped = (jnp.maximum(unclipped, 0), unclipped <= 0)
    return eqx.tree_at(lambda f: (f.congestion, f.at_boundary), fit, clipped), unclipped


def _minima(quality, load):
    """Local minima of every layer `[layer, expert]`."""
    return count_minima(make_tilt(quality.T, load.T, jnp.ones(len(load), load.dtype)))


def _with_the_rest(statistics, weights, top_k, value, load, fit, unclipped) -> LayerEstimates:
    tokens, logits = statistics.token_count, statistics.logit_sum
    dispersion = estimate_dispersion(weights, tokens, logits, statistics.centred_square_sum)
    signed = fit_congestion(value, load, "kl")
    return LayerEstimates(
        congestion=fit.congestion,
        residual=fit.residual,
        minima=fit.minima,
        at_boundary=fit.at_boundary,
        status=jnp.maximum(fit.status, signed.status),
        unclipped=unclipped,
        signed=signed.congestion,
        scale_sensitivity=scale_sensitivity(signed.congestion, value, load),
        dispersion_null=null_congestion(dispersion, top_k, load.shape[-1]),
        quality_spread=quality_spread(value),
        entropy=normalized_entropy(load),
        dispersion=dispersion,
        max_load=load.max(-1),
        dead_experts=(load == 0).sum(-1),
    )
