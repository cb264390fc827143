"""Signed congestion of two routers at one scale of their logits: a change of temperature is no change of game.

With c the slope of the second's mean logits on the first's, the first is estimated from c times its
quality and its own load. Near the uniform load that moves it by (c - 1) (congestion + M)
(`scale_sensitivity`): a quarter less logit scale looks like a third less congestion.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.estimate.congestion.fit import fit_congestion
from mfgjax.estimate.inference.quality import estimate_quality_and_load
from mfgjax.trace.schema import TextStatistics


@jax.jit
def signed_at_one_scale(
    first: TextStatistics, second: TextStatistics, weights: Float[Array, "weighting text"]
) -> tuple[Float[Array, "weighting layer"], Float[Array, "weighting layer"]]:
    """Signed (kl) congestion of the first at the second's logit scale, and of the second.

    Not certified here: the caller's own estimates of both carry the status.

    Args:
        first: per-text sums; expert i is the second's expert i.
        second: the same texts.
        weights: one row per weighting of the texts.
    """
    (q, load), (other, other_load) = (
        estimate_quality_and_load(side, weights) for side in (first, second)
    )
    q, other = (x - x.mean(-1, keepdims=True) for x in (q, other))
    slope = (q * other).sum(-1) / jnp.square(q).sum(-1)
    scaled = fit_congestion(slope[..., None] * q, load, "kl").congestion
    return scaled, fit_congestion(other, other_load, "kl").congestion
