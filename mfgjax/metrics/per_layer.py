"""All metrics of each layer at once, and their percentiles over layers.

A mean over layers hides one collapsed layer among many healthy ones; percentiles and the name of the
worst layer do not.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mfgjax.estimate.congestion.diagnostics import normalized_entropy
from mfgjax.metrics.balance import (
    balancedness,
    coefficient_of_variation,
    dead_experts,
    gini,
    hill_number,
    max_absolute_violation,
    max_min_ratio,
    max_violation,
    share_of,
)

PERCENTILES = (0.0, 5.0, 50.0, 95.0, 100.0)


class BalanceMetrics(eqx.Module):
    """Metrics of `mfgjax.metrics.balance`, one value per load. Dimensionless.

    Attributes:
        entropy: over log M, 0 to 1.
        gini: 0 to 1 - 1/M.
        coefficient_of_variation: 0 to sqrt(M - 1).
        max_violation: MaxVio, signed.
        max_absolute_violation: with absolute values.
        max_min_ratio: infinite with a dead expert.
        balancedness: mean over maximum, 1/M to 1.
        effective_experts: Hill number of order 1.
        effective_experts_order2: Hill number of order 2.
        dead_experts: experts without a token; -1 where no token was dispatched.
    """

    entropy: Float[Array, "*batch"]
    gini: Float[Array, "*batch"]
    coefficient_of_variation: Float[Array, "*batch"]
    max_violation: Float[Array, "*batch"]
    max_absolute_violation: Float[Array, "*batch"]
    max_min_ratio: Float[Array, "*batch"]
    balancedness: Float[Array, "*batch"]
    effective_experts: Float[Array, "*batch"]
    effective_experts_order2: Float[Array, "*batch"]
    dead_experts: Int[Array, "*batch"]


@jax.jit
def measure_balance(load: Float[Array, "*batch expert"]) -> BalanceMetrics:
    """Every metric of each load (counts or fractions); differentiable but for the counts.

    With a dead expert the entropy's derivative in its load is infinite and given as 0 (so for the
    effective experts); `max_min_ratio` has none there.
    """
    return BalanceMetrics(
        entropy=normalized_entropy(share_of(load)),
        gini=gini(load),
        coefficient_of_variation=coefficient_of_variation(load),
        max_violation=max_violation(load),
        max_absolute_violation=max_absolute_violation(load),
        max_min_ratio=max_min_ratio(load),
        balancedness=balancedness(load),
        effective_experts=hill_number(load, 1.0),
        effective_experts_order2=hill_number(load, 2.0),
        dead_experts=dead_experts(load),
    )


def percentiles_over_layers(
    values: Float[Array, "*batch layer"], percentiles: Sequence[float] = PERCENTILES
) -> Float[Array, "*batch percentile"]:
    """Percentiles of one metric over layers, nearest value (so that each is a real layer's).

    Args:
        values: one value per layer; NaN (a layer without tokens) makes the result NaN.
        percentiles: in [0, 100]; 0 and 100 are the extremes.
    """
    values = jnp.asarray(values)
    level = jnp.asarray(percentiles, jnp.result_type(float))
    found = jnp.percentile(values.astype(jnp.result_type(float)), level, axis=-1, method="nearest")
    return jnp.moveaxis(found, 0, -1)


def layer_groups(layers: int) -> dict[str, np.ndarray]:
    """All layers, and the earlier and later half of them."""
    index = np.arange(layers)
    groups = {"all": index}
    if layers > 1:
        half = (layers + 1) // 2
        groups |= {"early": index[:half], "late": index[half:]}
    return groups
