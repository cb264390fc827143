"""Confidence intervals from resampled estimates (Efron and Tibshirani 1993, chapters 12 to 14).

`confidence_interval` is the one entry for all kinds. All take the estimate `[...]` and its resamples
`[resample, ...]`, run on the host, and return NumPy arrays `(lower, upper)`.
"""

import warnings
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, stdtrit

Interval = tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]
IntervalKind = Literal["percentile", "basic", "bca", "jackknife"]


def confidence_interval(
    resampled: ArrayLike,
    level: float = 0.95,
    *,
    kind: IntervalKind = "percentile",
    estimate: ArrayLike | None = None,
    left_out: ArrayLike | None = None,
) -> Float[np.ndarray, "*batch 2"]:
    """The interval of any smooth estimate, whatever it is of: `[..., 2]`, low and high last.

    Every interval of resamples in tables and figures comes from here, so that one report has one
    kind and one level. `confidence_interval(resampled, level)` is the percentile interval, and
    that of a difference where `resampled` is `second - first` of the same resamples of the same
    texts: what texts add to both cancels, which makes it short;
    congestion averaged over layers has an interval that allows for noise and for the boundary 0,
    `mfgjax.dynamics.intervals.congestion_of_layers`.

    Args:
        resampled: estimates of resampled texts, leading axis `resample`. `"jackknife"` does not
            read them.
        level: nominal coverage, in (0, 1).
        kind: `"percentile"`, `"basic"`, `"bca"` or `"jackknife"`.
        estimate: from all texts; needed by all kinds but `"percentile"`.
        left_out: with each group of texts left out, leading axis `group`; needed by the last two.

    Raises:
        ValueError: a level outside (0, 1), or an argument that the kind needs is missing.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, a number between 0 and 1 was expected (0.95)")
    if kind == "percentile":
        return np.stack(percentile_interval(resampled, level), axis=-1)
    if estimate is None:
        raise ValueError(f"the {kind} interval needs the estimate from all texts")
    if kind == "basic":
        return np.stack(basic_interval(estimate, resampled, level), axis=-1)
    if left_out is None:
        raise ValueError(f"the {kind} interval needs estimates with texts left out")
    if kind == "bca":
        return np.stack(bca_interval(estimate, resampled, left_out, level), axis=-1)
    if kind == "jackknife":
        return np.stack(jackknife_interval(estimate, left_out, level), axis=-1)
    raise ValueError(f"interval {kind!r} is not one of percentile, basic, bca, jackknife")


def percentile_interval(resampled: ArrayLike, level: float = 0.95) -> Interval:
    """Quantiles of the resamples: what the paper reports. Shifts with bias, so may not cover.

    Resamples that are NaN are left out; NaN where all are.
    """
    ends = np.asarray([(1 - level) / 2, (1 + level) / 2])
    values = np.asarray(resampled)
    if not np.isnan(values).any():
        low, high = np.quantile(values, ends, axis=0)
        return low, high
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, high = np.nanquantile(values, ends, axis=0)
    return low, high


def basic_interval(estimate: ArrayLike, resampled: ArrayLike, level: float = 0.95) -> Interval:
    """The percentile interval reflected at the estimate: corrects bias, not skewness."""
    lower, upper = percentile_interval(resampled, level)
    twice = 2 * np.asarray(estimate, float)
    return twice - upper, twice - lower


def bca_interval(
    estimate: ArrayLike, resampled: ArrayLike, left_out: ArrayLike, level: float = 0.95
) -> Interval:
    """Bias-corrected and accelerated percentiles (Efron 1987).

    Args:
        estimate: from all texts.
        resampled: from resampled texts.
        left_out: from all texts but one, for the acceleration (`leave_one_out_weights`).
        level: nominal coverage.
    """
    point, many, without = (np.asarray(leaf, float) for leaf in (estimate, resampled, left_out))
    count = many.shape[0]
    below = (many < point).mean(0) + 0.5 * (many == point).mean(0)
    bias = ndtri(np.clip(below, 0.5 / count, 1 - 0.5 / count))
    pull = without.mean(0) - without
    cube, square = (pull**3).sum(0), (pull**2).sum(0)
    acceleration = np.where(square > 0, cube / (6 * np.where(square > 0, square, 1) ** 1.5), 0)

    def end(tail):
        score = bias + ndtri(tail)
        return _quantile_each(many, ndtr(bias + score / (1 - acceleration * score)))

    tail = (1 - level) / 2
    return end(tail), end(1 - tail)


def studentized_interval(
    estimate: ArrayLike,
    standard_error: ArrayLike,
    resampled: ArrayLike,
    resampled_error: ArrayLike,
    level: float = 0.95,
) -> Interval:
    """Bootstrap-t: quantiles of `(resample - estimate) / its own error`, second-order correct."""
    point, error = np.asarray(estimate, float), np.asarray(standard_error, float)
    lower, upper = percentile_interval(
        (np.asarray(resampled) - point) / np.asarray(resampled_error), level
    )
    return point - upper * error, point - lower * error


def normal_interval(
    estimate: ArrayLike, standard_error: ArrayLike, level: float = 0.95
) -> Interval:
    """Estimate plus and minus normal quantiles of its standard error."""
    point, error = np.asarray(estimate, float), np.asarray(standard_error, float)
    reach = ndtri(0.5 + level / 2) * error
    return point - reach, point + reach


def t_quantile(groups: float, level: float) -> float:
    """What a standard error from `groups` independent groups is multiplied with at `level`."""
    return float(stdtrit(groups - 1, 0.5 + level / 2))


def t_over_normal(groups: float, level: float) -> float:
    """How much wider than normal the interval is of an error estimated from `groups` groups."""
    return t_quantile(groups, level) / float(ndtri(0.5 + level / 2))


def jackknife_interval(estimate: ArrayLike, left_out: ArrayLike, level: float = 0.95) -> Interval:
    """t interval around the jackknife estimate, with the jackknife standard error.

    Needs no resampling. The estimate is corrected for its bias of order 1/texts, which for
    congestion is large: noise in the load attenuates the fit (see `jackknife_estimate`).
    """
    without = np.asarray(left_out, float)
    texts = without.shape[0]
    error = np.sqrt(((without - without.mean(0)) ** 2).sum(0) * (texts - 1) / texts)
    centre = jackknife_estimate(np.asarray(estimate, float), without)
    reach = t_quantile(texts, level) * error
    return centre - reach, centre + reach


def jackknife_estimate(estimate, left_out):
    """Bias-corrected estimate `S estimate - (S-1) mean(left_out)` (Quenouille 1956).

    Congestion is a regression of `quality - log load` on load, so sampling noise in the load enters
    both sides: to first order `gamma + M` is multiplied by the share of the variance of the load
    over experts that is not noise. With few tokens that share is well below 1.
    """
    texts = left_out.shape[0]
    return texts * estimate - (texts - 1) * left_out.mean(0)


def simultaneous_band(estimate: ArrayLike, resampled: ArrayLike, level: float = 0.95) -> Interval:
    """Band that holds the whole trajectory with probability `level` (studentized supremum).

    The half width is one multiple of the bootstrap standard deviation at every step: the `level`
    quantile over resamples of the largest standardised deviation along the trajectory.

    Args:
        estimate: `[step]`.
        resampled: `[resample, step]`.
        level: nominal coverage of all steps at once.
    """
    point, many = np.asarray(estimate, float), np.asarray(resampled)
    centre, spread = many.mean(0, dtype=float), many.std(0, dtype=float)
    safe = np.where(spread > 0, spread, 1)
    deviation = np.where(spread > 0, np.abs(many - centre) / safe, 0).max(-1)
    reach = np.quantile(deviation, level) * spread
    return point - reach, point + reach


def _quantile_each(resampled, share):
    """Quantile of every column at its own share, linear between order statistics."""
    ordered = np.sort(resampled, axis=0)
    place = np.clip(share, 0, 1) * (resampled.shape[0] - 1)
    low = np.floor(np.nan_to_num(place)).astype(int)
    high = np.minimum(low + 1, resampled.shape[0] - 1)
    at_low = np.take_along_axis(ordered, low[None], axis=0)[0]
    at_high = np.take_along_axis(ordered, high[None], axis=0)[0]
    return at_low + (place - low) * (at_high - at_low)
