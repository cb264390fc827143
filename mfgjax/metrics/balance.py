"""How even a load is: the numbers that MoE training code logs, each defined once.

Every function takes loads over experts on the last axis, as counts or as fractions (none depends on
the scale), broadcasts over leading axes and is NaN where no token was dispatched (the count of dead
experts, which has no NaN, is -1 there). With
`share_i = load_i / sum load` and M experts:

| function | definition | balanced | one expert takes all | source |
|---|---|---|---|---|
| `max_violation` | `M max share - 1` | 0 | M - 1 | Wang et al. 2024, arXiv 2408.15664 (MaxVio) |
| `max_absolute_violation` | `max abs(M share - 1)` | 0 | M - 1 | the variant with absolute values |
| `max_min_ratio` | `max share / min share` | 1 | inf | |
| `balancedness` | `mean share / max share` | 1 | 1/M | log line of vLLM's expert load balancer |
| `coefficient_of_variation` | `std share / mean share` | 0 | sqrt(M - 1) | Shazeer et al. 2017, arXiv 1701.06538, eq. 7 |
| `gini` | `sum abs(share_i - share_j) / (2 M)` | 0 | 1 - 1/M | Gini 1912 |
| `hill_number` | `(sum share^q)^(1/(1-q))` | M | 1 | Hill 1973, doi 10.2307/1934352 |
| `dead_experts` | `#{share_i = 0}` | 0 | M - 1 | |

The entropy is `normalized_entropy`: `log hill_number(order=1) / log M`. The standard
deviation is that of the M experts themselves (divisor M), not of a sample from more.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfgjax.estimate.congestion.diagnostics import entropy


def share_of(load: Float[Array, "*batch expert"]) -> Float[Array, "*batch expert"]:
    """Fraction of dispatches that each expert gets."""
    return load / load.sum(-1, keepdims=True)


def max_violation(load: Float[Array, "*batch expert"]) -> Float[Array, "*batch"]:
    """MaxVio, signed: how far the busiest expert is above the mean, relative to the mean."""
    return load.shape[-1] * share_of(load).max(-1) - 1


def max_absolute_violation(load: Float[Array, "*batch expert"]) -> Float[Array, "*batch"]:
    """Largest relative distance from the mean, above or below: at least `max_violation`."""
    return jnp.abs(load.shape[-1] * share_of(load) - 1).max(-1)


def max_min_ratio(load: Float[Array, "*batch expert"]) -> Float[Array, "*batch"]:
    """Busiest over idlest expert; infinite where an expert is dead."""
    share = share_of(load)
    return share.max(-1) / share.min(-1)


def balancedness(load: Float[Array, "*batch expert"]) -> Float[Array, "*batch"]:
    """Mean over maximum load: the utilisation if all experts wait for the busiest."""
    return 1 / (load.shape[-1] * share_of(load).max(-1))


def coefficient_of_variation(load: Float[Array, "*batch expert"]) -> Float[Array, "*batch"]:
    """Standard deviation over mean; its square is the importance loss of Shazeer et al.

    At an exactly even load, where it has a kink, the derivative is given as 0.
    """
    variance = share_of(load).var(-1)
    even = variance == 0
    return load.shape[-1] * jnp.where(even, 0, jnp.sqrt(jnp.where(even, 1, variance)))


def gini(load: Float[Array, "*batch expert"]) -> Float[Array, "*batch"]:
    """Gini coefficient, by sorting: `sum_i (2 i - M - 1) share_(i) / M`, i = 1..M."""
    experts = load.shape[-1]
    rank = jnp.arange(1 - experts, experts, 2, dtype=load.dtype)
    return jnp.sort(share_of(load), axis=-1) @ rank / experts


def hill_number(load: Float[Array, "*batch expert"], order: float = 1.0) -> Float[Array, "*batch"]:
    """Effective number of experts of an order, from 1 to M.

    Args:
        load: counts or fractions.
        order: static, >= 0. 0 counts the living experts, 1 is `exp(entropy)`, 2 is one over the
            chance that two dispatches meet, infinity is one over the largest share.

    Raises:
        ValueError: on a negative order.
    """
    if not order >= 0:
        raise ValueError(f"order is {order}; a Hill number needs an order of 0 or more")
    share = share_of(load)
    if order == 0:
        return jnp.where(jnp.isnan(share), jnp.nan, (share > 0).astype(share.dtype)).sum(-1)
    if order == 1:
        return jnp.exp(entropy(share))
    if order == float("inf"):
        return 1 / share.max(-1)
    return (share**order).sum(-1) ** (1 / (1 - order))


def dead_experts(load: Float[Array, "*batch expert"]) -> Int[Array, "*batch"]:
    """Number of experts that no token chose; -1 where no token was dispatched at all."""
    dead = load == 0
    return jnp.where(dead.all(-1), -1, dead.sum(-1))
