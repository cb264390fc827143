"""Which interval stands beside an estimate of a trajectory, and what the texts say about changes.

`"corrected"`, the default, is the one that covers with few and short texts in simulation with known
truth (`python -m benchmarks.coverage_corrected`); `"percentile"` is the paper's, and does not.
"""

import warnings
from typing import Literal

import jax.numpy as jnp
import numpy as np
from scipy import stats

from mfgjax.dynamics import Trajectory
from mfgjax.estimate import (
    basic_interval,
    bca_interval,
    influence_error,
    jackknife_interval,
    score_interval,
    simultaneous_band,
)
from mfgjax.estimate.corrected_resamples import correct_l1, correct_resamples
from mfgjax.estimate.interval import Interval

IntervalName = Literal["corrected", "percentile", "basic", "bca", "jackknife"]
INTERVALS: tuple[IntervalName, ...] = ("corrected", "percentile", "basic", "bca", "jackknife")
_BAND_DRAWS = 2000


def check_interval(name: str) -> None:
    """Raise `ValueError` unless `name` is one of `INTERVALS`."""
    if name not in INTERVALS:
        raise ValueError(f"interval {name!r} is not one of {', '.join(INTERVALS)}")


def standard_interval(
    name: IntervalName,
    estimate: np.ndarray,
    resampled: np.ndarray,
    left_out: np.ndarray,
    level: float,
) -> np.ndarray:
    """An interval of any smooth estimate `[...]`, bounds last.

    Percentiles leave out resamples without an estimate; the others are NaN with one.
    `"corrected"` is the jackknife here: it corrects the bias, and needs no more than smoothness.
    """
    if name == "percentile":
        return percentiles(resampled, level)
    point, many, without = (jnp.asarray(leaf) for leaf in (estimate, resampled, left_out))
    if name == "basic":
        ends = basic_interval(point, many, level)
    elif name == "bca":
        ends = bca_interval(point, many, without, level)
    else:
        ends = jackknife_interval(point, without, level)
    return _pair(ends)


def percentiles(resampled: np.ndarray, level: float) -> np.ndarray:
    """Percentile interval over the leading axis, bounds last; resamples that are NaN are left out."""
    ends = [(1 - level) / 2, (1 + level) / 2]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.moveaxis(np.nanquantile(resampled, ends, axis=0), 0, -1)


def layer_mean(values: np.ndarray) -> np.ndarray:
    """Average over layers (last axis) that have a value; NaN where none has."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.nanmean(values, axis=-1)


def corrected_signed(
    trajectory: Trajectory, level: float, seed: int
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Corrected signed congestion: estimates, intervals, changes between checkpoints, and a band.

    Layer averages and changes are sums of what each text does to them (`CorrectedFit.influence`), so
    they are paired over checkpoints; no resampling is involved.
    """
    fit = trajectory.corrected
    estimate = np.asarray(fit.congestion, float)
    influence = np.asarray(fit.influence, float)
    mean, pull = layer_mean(estimate), layer_mean(influence)
    reach = _quantile(len(influence), level)
    band = _band(mean, pull, level, seed)
    ends = _pair(score_interval(fit, level))
    checkpoints, grid = ("checkpoint",), ("checkpoint", "layer")
    change, moved = np.diff(mean, prepend=np.nan), np.diff(pull, axis=1, prepend=np.nan)
    return {
        "corrected": (grid, estimate),
        "corrected_interval": ((*grid, "bound"), ends),
        "mean_corrected": (checkpoints, mean),
        "mean_corrected_interval": ((*checkpoints, "bound"), _around(mean, pull, reach)),
        "mean_corrected_band": ((*checkpoints, "bound"), band),
        "mean_corrected_change": (checkpoints, change),
        "mean_corrected_change_interval": (
            (*checkpoints, "bound"),
            _around(change, moved, reach),
        ),
    }


def corrected_l1(
    trajectory: Trajectory, level: float
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Corrected Definition 3.1: estimates, intervals, changes between checkpoints, and a band."""
    fit, estimate = trajectory.corrected, trajectory.estimate
    unclipped, signed = np.asarray(estimate.unclipped), np.asarray(estimate.signed)
    point, _ = correct_l1(unclipped, signed, fit)
    resampled = correct_resamples(
        np.asarray(trajectory.resampled.unclipped), unclipped, signed, fit
    )
    mean, means = layer_mean(point), layer_mean(resampled)
    checkpoints, grid = ("checkpoint",), ("checkpoint", "layer")
    known = np.isfinite(mean)
    band = np.full((len(mean), 2), np.nan)
    if known.any():
        band[known] = np.maximum(_supremum(mean[known], means[:, known], level), 0)
    return {
        "corrected_l1": (grid, point),
        "corrected_l1_interval": ((*grid, "bound"), percentiles(resampled, level)),
        "mean_corrected_l1": (checkpoints, mean),
        "mean_corrected_l1_interval": ((*checkpoints, "bound"), percentiles(means, level)),
        "mean_corrected_l1_band": ((*checkpoints, "bound"), band),
        "mean_corrected_l1_change": (checkpoints, np.diff(mean, prepend=np.nan)),
        "mean_corrected_l1_change_interval": (
            (*checkpoints, "bound"),
            percentiles(np.diff(means, axis=1, prepend=np.nan), level),
        ),
    }


def _quantile(groups: int, level: float) -> float:
    return float(stats.t.ppf(0.5 + level / 2, groups - 1))


def _around(centre: np.ndarray, influence: np.ndarray, reach: float) -> np.ndarray:
    error = np.asarray(influence_error(jnp.asarray(influence)))
    return np.stack([centre - reach * error, centre + reach * error], axis=-1)


def _band(mean: np.ndarray, influence: np.ndarray, level: float, seed: int) -> np.ndarray:
    """Simultaneous band from normal multipliers on what each text does, paired over checkpoints."""
    known = np.isfinite(influence).all(0)
    out = np.full((len(mean), 2), np.nan)
    if not known.any():
        return out
    groups = len(influence)
    normal = np.random.default_rng(seed).standard_normal((_BAND_DRAWS, groups))
    # A t quantile's worth wider than normal: the errors are estimated from as many groups.
    wide = _quantile(groups, level) / float(stats.norm.ppf(0.5 + level / 2))
    paths = wide * normal @ (influence[:, known] / np.sqrt(groups * (groups - 1)))
    out[known] = _supremum(mean[known], mean[known] + paths, level)
    return out


def _supremum(estimate: np.ndarray, resampled: np.ndarray, level: float) -> np.ndarray:
    ends = simultaneous_band(jnp.asarray(estimate, float), jnp.asarray(resampled, float), level)
    return _pair(ends)


def _pair(ends: Interval) -> np.ndarray:
    low, high = ends
    return np.stack([np.asarray(low), np.asarray(high)], axis=-1)
