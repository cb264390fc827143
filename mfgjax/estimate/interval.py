"""Confidence intervals from resampled estimates (Efron and Tibshirani 1993, chapters 12 to 14).

All take the estimate `[...]` and its resamples `[resample, ...]` and return `(lower, upper)`; they
run on the host or under jit. A resample that is NaN makes its interval NaN.
"""

import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float

Interval = tuple[Float[Array, "*batch"], Float[Array, "*batch"]]


def percentile_interval(
    resampled: Float[Array, " resample *batch"], level: float = 0.95
) -> Interval:
    """Quantiles of the resamples: what the paper reports. Shifts with bias, so may not cover."""
    tail = (1 - level) / 2
    return jnp.quantile(resampled, tail, axis=0), jnp.quantile(resampled, 1 - tail, axis=0)


def basic_interval(
    estimate: Float[Array, "*batch"],
    resampled: Float[Array, " resample *batch"],
    level: float = 0.95,
) -> Interval:
    """The percentile interval reflected at the estimate: corrects bias, not skewness."""
    lower, upper = percentile_interval(resampled, level)
    return 2 * estimate - upper, 2 * estimate - lower


def bca_interval(
    estimate: Float[Array, "*batch"],
    resampled: Float[Array, " resample *batch"],
    left_out: Float[Array, " text *batch"],
    level: float = 0.95,
) -> Interval:
    """Bias-corrected and accelerated percentiles (Efron 1987).

    Args:
        estimate: from all texts.
        resampled: from resampled texts.
        left_out: from all texts but one, for the acceleration (`leave_one_out_weights`).
        level: nominal coverage.
    """
    count = resampled.shape[0]
    below = (resampled < estimate[None]).mean(0) + 0.5 * (resampled == estimate[None]).mean(0)
    bias = ndtri(jnp.clip(below, 0.5 / count, 1 - 0.5 / count).astype(estimate.dtype))
    pull = left_out.mean(0)[None] - left_out
    cube, square = (pull**3).sum(0), (pull**2).sum(0)
    acceleration = jnp.where(square > 0, cube / (6 * jnp.where(square > 0, square, 1) ** 1.5), 0)

    def end(tail):
        score = bias + ndtri(jnp.asarray(tail, estimate.dtype))
        share = ndtr(bias + score / (1 - acceleration * score))
        return _quantile_each(resampled, share)

    tail = (1 - level) / 2
    return end(tail), end(1 - tail)


def studentized_interval(
    estimate: Float[Array, "*batch"],
    standard_error: Float[Array, "*batch"],
    resampled: Float[Array, " resample *batch"],
    resampled_error: Float[Array, " resample *batch"],
    level: float = 0.95,
) -> Interval:
    """Bootstrap-t: quantiles of `(resample - estimate) / its own error`, second-order correct."""
    ratio = (resampled - estimate[None]) / resampled_error
    lower, upper = percentile_interval(ratio, level)
    return estimate - upper * standard_error, estimate - lower * standard_error


def normal_interval(
    estimate: Float[Array, "*batch"], standard_error: Float[Array, "*batch"], level: float = 0.95
) -> Interval:
    """Estimate plus and minus normal quantiles of its standard error."""
    reach = ndtri(jnp.asarray(0.5 + level / 2, estimate.dtype)) * standard_error
    return estimate - reach, estimate + reach


def jackknife_interval(
    estimate: Float[Array, "*batch"], left_out: Float[Array, " text *batch"], level: float = 0.95
) -> Interval:
    """Normal interval around the jackknife estimate, with the jackknife standard error.

    Needs no resampling. The estimate is corrected for its bias of order 1/texts, which for
    congestion is large: noise in the load attenuates the fit (see `jackknife_estimate`).
    """
    texts = left_out.shape[0]
    spread = ((left_out - left_out.mean(0)[None]) ** 2).sum(0) * (texts - 1) / texts
    return normal_interval(jackknife_estimate(estimate, left_out), jnp.sqrt(spread), level)


def jackknife_estimate(
    estimate: Float[Array, "*batch"], left_out: Float[Array, " text *batch"]
) -> Float[Array, "*batch"]:
    """Bias-corrected estimate `S estimate - (S-1) mean(left_out)` (Quenouille 1956).

    Congestion is a regression of `quality - log load` on load, so sampling noise in the load enters
    both sides: to first order `gamma + M` is multiplied by the share of the variance of the load
    over experts that is not noise. With few tokens that share is well below 1.
    """
    texts = left_out.shape[0]
    return texts * estimate - (texts - 1) * left_out.mean(0)


def paired_difference_interval(
    first: Float[Array, " resample *batch"],
    second: Float[Array, " resample *batch"],
    level: float = 0.95,
) -> Interval:
    """Percentile interval of `second - first`, both from the same resamplings of the same texts.

    Pairing is what makes it short: text effects common to two checkpoints cancel.
    """
    return percentile_interval(second - first, level)


def simultaneous_band(
    estimate: Float[Array, " step"],
    resampled: Float[Array, "resample step"],
    level: float = 0.95,
) -> Interval:
    """Band that holds the whole trajectory with probability `level` (studentized supremum).

    The half width is one multiple of the bootstrap standard deviation at every step: the `level`
    quantile over resamples of the largest standardised deviation along the trajectory.
    """
    centre, spread = resampled.mean(0), resampled.std(0)
    safe = jnp.where(spread > 0, spread, 1)
    scaled = jnp.abs(resampled - centre[None]) / safe[None]
    deviation = jnp.where(spread[None] > 0, scaled, 0).max(-1)
    reach = jnp.quantile(deviation, level) * spread
    return estimate - reach, estimate + reach


def _quantile_each(resampled, share):
    """Quantile of every column at its own share, linear between order statistics."""
    ordered = jnp.sort(resampled, axis=0)
    place = jnp.clip(share, 0, 1) * (resampled.shape[0] - 1)
    low = jnp.floor(place).astype(jnp.int32)
    high = jnp.minimum(low + 1, resampled.shape[0] - 1)
    part = place - low.astype(place.dtype)
    at_low = jnp.take_along_axis(ordered, low[None], axis=0)[0]
    at_high = jnp.take_along_axis(ordered, high[None], axis=0)[0]
    return at_low + part * (at_high - at_low)
