"""Congestion of each layer from per-text sums, with a standard error that needs no model.

The standard error is the delete-a-group jackknife over texts: tokens of one text may depend on each
other, texts may not (Kott 2001, Journal of Official Statistics 17(4)). With g groups left out in turn
(`jackknife_groups`, as in `track`),

    se^2 = (g-1)/g sum_j (congestion_without_j - mean)^2.                                      (1)

Definition 3.1's minimiser has kinks; where it sits on one for most of the groups, (1) is rough.

Two routers are compared at one scale of their logits, since a change of temperature is no change of game. With c
the slope of the second's mean logits on the first's, the first is estimated from c times its quality and its own
load. Near the uniform load that moves it by (c - 1) (congestion + M) (`scale_sensitivity`): a quarter less logit
scale looks like a third less congestion.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.estimate.congestion.fit import Objective, fit_congestion
from mfgjax.estimate.congestion.result import CongestionFit
from mfgjax.estimate.inference.quality import Quality, estimate_quality_and_load
from mfgjax.estimate.inference.weights import jackknife_groups, leave_out_weights, unit_weights
from mfgjax.trace.schema import TextStatistics


@partial(jax.jit, static_argnames=("objective", "quality"))
def fit_texts(
    statistics: TextStatistics, objective: Objective = "l1", quality: Quality = "mean"
) -> CongestionFit:
    """Congestion of every layer of one checkpoint.

    Args:
        statistics: per-text sums, no batch axes; texts without tokens are of no consequence.
            With tokens (`TokenStatistics`) for the qualities that need them.
        objective: as in `fit_congestion`. Static.
        quality: as in `estimate_quality_and_load`. Static.

    Returns:
        A `CongestionFit` with batch axis `layer`; `standard_error` is (1), for every objective.

    Raises:
        ValueError: fewer than three texts, too few to compare.
    """
    texts, dtype = statistics.token_count.shape[0], statistics.token_count.dtype
    without = jnp.asarray(leave_out_weights(jackknife_groups(texts), dtype))
    weights = jnp.concatenate([unit_weights(texts, dtype), without])
    values, load = estimate_quality_and_load(statistics, weights, quality)
    fits = fit_congestion(values, load, objective)
    left_out = fits.congestion[1:]
    groups = left_out.shape[0]
    square = ((left_out - left_out.mean(0, keepdims=True)) ** 2).sum(0)
    whole = jax.tree.map(lambda leaf: leaf[0], fits)
    return dataclasses.replace(whole, standard_error=jnp.sqrt(square * (groups - 1) / groups))


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
