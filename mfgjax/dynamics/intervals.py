"""Which interval stands beside an estimate of a trajectory, and what the texts say about changes.

`"corrected"`, the default, is the one that covers with few and short texts in simulation with known
truth (`python -m benchmarks.studies.coverage_corrected`); `"percentile"` is the paper's, and does not.
"""

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr

from mfgjax.dynamics.trajectory import Trajectory
from mfgjax.estimate.inference.corrected import (
    correct_l1,
    correct_resamples,
    influence_error,
    score_interval,
)
from mfgjax.estimate.inference.interval import (
    confidence_interval,
    simultaneous_band,
    t_over_normal,
    t_quantile,
)
from mfgjax.estimate.null.excess import excess_of_jackknife

IntervalName = Literal["corrected", "percentile", "basic", "bca", "jackknife"]
INTERVALS: tuple[IntervalName, ...] = ("corrected", "percentile", "basic", "bca", "jackknife")
RESAMPLES_OF_CORRECTED = ("congestion", "unclipped", "signed")
"""What `"corrected"` needs the resamples of: the rest have the jackknife's."""
_BAND_DRAWS = 2000

Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]
"""Names of a dataset's variables, with their dims and values."""


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

    `"corrected"` is the jackknife here: it corrects the bias, and needs no more than smoothness.
    """
    kind = "jackknife" if name == "corrected" else name
    return confidence_interval(resampled, level, kind=kind, estimate=estimate, left_out=left_out)


def congestion_of_layers(
    dataset: xr.Dataset, layers: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """gamma_eff averaged over some layers, with the dataset's own kind of interval and level.

    How a table gets the interval of a group of layers: never from percentiles of its own.

    Args:
        dataset: as `mfgjax.track` returns it, of one checkpoint or of all.
        layers: positions of the layers; all of them if not given.

    Returns:
        The average of the estimates, and of it `[..., 2]` low and high: NaN without resamples.
        `"corrected"`: the interval of averages cut off at 0 last, joined with that of averages of
        what was cut off first (`average_over_layers`): it holds 0 where no layer has congestion.
    """
    chosen = slice(None) if layers is None else list(layers)
    within = dataset.isel(layer=chosen)
    estimate = layer_mean(within.congestion.transpose(..., "layer").values)
    if not dataset.resamples:
        return estimate, np.full((*estimate.shape, 2), np.nan)
    if dataset.interval == "corrected":
        resampled = within.corrected_l1_resamples.transpose("resample", ..., "layer").values
        return estimate, average_interval(resampled, dataset.confidence)
    drawn = within.congestion_resamples.transpose("resample", ..., "layer").values
    without = within.congestion_left_out.transpose("group", ..., "layer").values
    means = layer_mean(drawn), layer_mean(without)
    return estimate, standard_interval(dataset.interval, estimate, *means, dataset.confidence)


def layer_mean(values: np.ndarray) -> np.ndarray:
    """Average over layers (last axis) that have a value; NaN where none has."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.nanmean(values, axis=-1)


def average_over_layers(
    estimate: np.ndarray, resampled: np.ndarray, interval: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Average over layers of estimates that are not cut off at 0, and of their resamples.

    gamma_eff is at least 0 (Definition 3.1), and an average of values cut off at 0 lies above 0 even
    where no layer has congestion. So a layer counts 0 only where its whole interval does not reach
    above 0, and else what it is.

    Args:
        estimate: `[..., layer]`.
        resampled: `[resample, ..., layer]`.
        interval: of the estimates, `[..., layer, 2]`, at least 0 or not.
    """
    none = interval[..., 1] <= 0
    return layer_mean(np.where(none, 0, estimate)), layer_mean(np.where(none, 0, resampled))


def average_interval(resampled: np.ndarray, level: float) -> np.ndarray:
    """Interval `[..., 2]` of gamma_eff averaged over layers, from corrected resamples.

    Args:
        resampled: `[resample, ..., layer]`, not cut off at 0.
        level: nominal coverage.
    """
    means = _averages(resampled, confidence_interval(resampled, level))
    return _hull([confidence_interval(many, level) for many in means])


def _averages(resampled: np.ndarray, interval: np.ndarray) -> list[np.ndarray]:
    """Resampled averages over layers, cut off at 0 last and first.

    Truth is the average of what each layer has above 0. The first kind lies below it where a layer's
    congestion is negative, the second above it where a layer's is 0: an interval that holds the
    intervals of both allows for either.
    """
    last = average_over_layers(resampled[0], resampled, interval)[1]
    return [_at_least_zero(last), layer_mean(_at_least_zero(resampled))]


def _hull(intervals: Sequence[np.ndarray]) -> np.ndarray:
    low = np.minimum.reduce([ends[..., 0] for ends in intervals])
    return np.stack([low, np.maximum.reduce([ends[..., 1] for ends in intervals])], axis=-1)


def corrected_signed(trajectory: Trajectory, level: float, seed: int) -> Variables:
    """Corrected signed congestion: estimates, intervals, changes between checkpoints, and a band.

    Layer averages and changes are sums of what each text does to them (`CorrectedFit.influence`), so
    they are paired over checkpoints; no resampling is involved.
    """
    fit = trajectory.corrected
    estimate = np.asarray(fit.congestion, float)
    influence = np.asarray(fit.influence, float)
    mean, pull = layer_mean(estimate), layer_mean(influence)
    reach = t_quantile(len(influence), level)
    band = _band(mean, pull, level, seed)
    ends = np.stack(score_interval(fit, level), axis=-1)
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


def corrected_l1(trajectory: Trajectory, level: float) -> Variables:
    """Corrected Definition 3.1: estimates, intervals, changes between checkpoints, and a band.

    All at least 0, but for `corrected_l1_resamples` and the changes.
    """
    point, resampled = _corrected_resamples(trajectory, level)
    ends = _at_least_zero(confidence_interval(resampled, level))
    mean = _at_least_zero(average_over_layers(point, resampled, ends)[0])
    means = _averages(resampled, ends)
    checkpoints, grid = ("checkpoint",), ("checkpoint", "layer")
    known = np.isfinite(mean)
    band = np.full((len(mean), 2), np.nan)
    if known.any():
        bands = [_supremum(many[:, known].mean(0), many[:, known], level) for many in means]
        band[known] = _at_least_zero(_hull(bands))
    changes = [np.diff(many, axis=1, prepend=np.nan) for many in means]
    return {
        "corrected_l1": (grid, _at_least_zero(point)),
        "corrected_l1_interval": ((*grid, "bound"), ends),
        "corrected_l1_resamples": (("resample", *grid), resampled),
        "mean_corrected_l1": (checkpoints, mean),
        "mean_corrected_l1_interval": (
            (*checkpoints, "bound"),
            average_interval(resampled, level),
        ),
        "mean_corrected_l1_band": ((*checkpoints, "bound"), band),
        "mean_corrected_l1_change": (checkpoints, np.diff(mean, prepend=np.nan)),
        "mean_corrected_l1_change_interval": (
            (*checkpoints, "bound"),
            _hull([confidence_interval(many, level) for many in changes]),
        ),
    }


def excess_over_dispersion(
    trajectory: Trajectory, level: float, layers: Sequence[str]
) -> Variables:
    """The dispersion null and the excess over it, as `mfgjax.estimate.dispersion_excess` has them.

    The excess is NaN, with infinite bounds, where the load differs from uniform by no more than its noise.
    """
    estimate, left_out = trajectory.estimate, trajectory.left_out
    null = np.asarray(estimate.dispersion_null), np.asarray(left_out.dispersion_null)
    found = excess_of_jackknife("dispersion", trajectory.corrected, *null, level, tuple(layers))
    groups = len(null[1])
    pulled = groups * layer_mean(null[0]) - (groups - 1) * layer_mean(null[1])
    checkpoints, grid = ("checkpoint",), ("checkpoint", "layer")
    reach = t_quantile(groups, level)
    return {
        "dispersion_null": (grid, found.null),
        "dispersion_null_interval": ((*grid, "bound"), np.stack(found.null_interval, -1)),
        "mean_dispersion_null": (checkpoints, layer_mean(found.null)),
        "mean_dispersion_null_interval": (
            (*checkpoints, "bound"),
            _around(pulled.mean(0), pulled, reach),
        ),
        "dispersion_excess": (grid, found.excess),
        "dispersion_excess_interval": ((*grid, "bound"), np.stack(found.excess_interval, -1)),
        "mean_dispersion_excess": (checkpoints, found.mean_excess),
        "mean_dispersion_excess_interval": (
            (*checkpoints, "bound"),
            np.stack(found.mean_interval, -1),
        ),
    }


def phase_series(trajectory: Trajectory, level: float) -> tuple[np.ndarray, np.ndarray | None]:
    """The layer average that phases are claimed of, and its resamples.

    The corrected one, not cut off at 0 (`average_over_layers`): where the truth is 0, so is its mean.
    The paper's average where a checkpoint has no corrected estimate; without resamples that, alone.
    """
    plain = layer_mean(np.asarray(trajectory.estimate.congestion))
    if not len(trajectory.resampled.unclipped):
        return plain, None
    point, resampled = _corrected_resamples(trajectory, level)
    ends = confidence_interval(resampled, level)
    mean, means = average_over_layers(point, resampled, ends)
    if np.isfinite(mean).all():
        return mean, means
    return plain, layer_mean(np.asarray(trajectory.resampled.congestion))


def _corrected_resamples(trajectory: Trajectory, level: float) -> tuple[np.ndarray, np.ndarray]:
    estimate, fit = trajectory.estimate, trajectory.corrected
    unclipped, signed = np.asarray(estimate.unclipped), np.asarray(estimate.signed)
    point, _ = correct_l1(unclipped, signed, fit)
    drawn = np.asarray(trajectory.resampled.unclipped)
    return point, correct_resamples(drawn, unclipped, signed, fit, level)


def _at_least_zero(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0)


def _around(centre: np.ndarray, influence: np.ndarray, reach: float) -> np.ndarray:
    error = influence_error(influence)
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
    wide = t_over_normal(groups, level)
    paths = wide * normal @ (influence[:, known] / np.sqrt(groups * (groups - 1)))
    out[known] = _supremum(mean[known], mean[known] + paths, level)
    return out


def _supremum(estimate: np.ndarray, resampled: np.ndarray, level: float) -> np.ndarray:
    return np.stack(simultaneous_band(estimate, resampled, level), axis=-1)
