"""How much the trajectory depends on the choices of the estimate (Figure 2 of arXiv 2604.04230)."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from mfgjax.estimate.congestion.fit import Objective, fit_rows
from mfgjax.estimate.congestion.temperature import fit_temperature
from mfgjax.estimate.inference.quality import (
    QUALITIES,
    TOKEN_QUALITIES,
    Quality,
    estimate_quality_and_load,
)
from mfgjax.estimate.inference.token_quality import TokenStatistics
from mfgjax.numerics.status import Status
from mfgjax.trace.schema import TextStatistics

SENSITIVITY_OBJECTIVES = ("l1", "kl", "equilibrium", "temperature")


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Trajectories of one sweep under several choices, against a reference choice.

    Attributes:
        reference: name of the choice that the others are compared with.
        names: of all choices, e.g. `"l1 mean"`.
        correlation: Pearson correlation of each trajectory with the reference, over the checkpoints
            that both have; NaN if either is constant there, or with fewer than three.
        rank_correlation: Spearman's, which one wild checkpoint cannot decide.
        shift: mean difference from the reference, over the same checkpoints.
        checkpoints: how many those are.
        matrix: correlations of all pairs.
    """

    reference: str
    names: tuple[str, ...]
    correlation: np.ndarray
    rank_correlation: np.ndarray
    shift: np.ndarray
    checkpoints: np.ndarray
    matrix: np.ndarray


@dataclasses.dataclass(frozen=True)
class SensitivityTable:
    """Every objective with every quality on one sweep; one row per pair, objectives outermost.

    Attributes:
        objective: of each row. `"temperature"` is the rival `softmax(quality / T)`, given as the
            congestion `M (T - 1)` that has the same slope at a uniform load (derived: there
            `log load` falls by `load`-units of `gamma / M` per unit of quality).
        quality: of each row.
        congestion: `[row, checkpoint, layer]`; NaN where a quality needs tokens that are not there,
            where the load does not identify it, and where the fit found no minimiser.
        with_mean: comparison of the layer-averaged trajectories with that of quality `"mean"`, or the
            first quality without it, per objective: the correlation is what the paper's Figure 2 has.
        with_reference: comparison of all rows with `reference`.
        reference: `(objective, quality)`.
        checkpoints: number of checkpoints that the row has.
        unsolved: fits of the row without a minimiser (unbounded, or out of steps).
    """

    objective: tuple[str, ...]
    quality: tuple[str, ...]
    congestion: np.ndarray
    with_mean: tuple[Sensitivity, ...]
    with_reference: Sensitivity
    reference: tuple[str, str]
    checkpoints: np.ndarray
    unsolved: np.ndarray


def estimate_sensitivity(
    statistics: TextStatistics,
    tokens_of: Callable[[int, TextStatistics], TokenStatistics | None] | None = None,
    *,
    objectives: tuple[str, ...] = SENSITIVITY_OBJECTIVES,
    qualities: tuple[Quality, ...] = QUALITIES,
    reference: tuple[str, Quality] = ("l1", "mean"),
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda checkpoints: checkpoints,
) -> SensitivityTable:
    """Effective congestion of a sweep under every objective and quality, and how they agree.

    Correlation hides shifts, and a trajectory that never leaves the boundary correlates with
    nothing (NaN): read the shifts and `congestion` beside it. `"temperature"` and `"equilibrium"` grow
    without bound as a load gets more even than any congestion explains: read the rank correlation.

    Args:
        statistics: per-text sums with leading axis `checkpoint`.
        tokens_of: the tokens of a checkpoint, from its index and its sums, or None where there are
            none; asked for qualities that need them (`mfgjax.report.inputs` reads a folder).
        objectives: from `SENSITIVITY_OBJECTIVES`; `"equilibrium"` is by KL divergence.
        qualities: from `QUALITIES`.
        reference: one of the pairs.
        progress: wraps the iteration over checkpoints, e.g. in a progress bar.

    Raises:
        ValueError: an unknown objective or quality, or a reference that is not among them.
    """
    unknown = set(objectives) - set(SENSITIVITY_OBJECTIVES)
    if unknown:
        raise ValueError(f"objectives {sorted(unknown)} are not among {SENSITIVITY_OBJECTIVES}")
    if reference[0] not in objectives or reference[1] not in qualities:
        raise ValueError(f"reference {reference} is not among the objectives and qualities asked")
    quality, load = _inputs(statistics, tokens_of, qualities, progress)
    known = np.isfinite(quality).all(-1)
    rows: dict[str, np.ndarray] = {}
    unsolved = []
    for objective in objectives:
        congestion, status = _fit(objective, quality, load)
        bad = known & (status != Status.CONVERGED) & (status != Status.UNIDENTIFIED)
        congestion = np.where(bad, np.nan, congestion)
        rows |= {f"{objective} {name}": congestion[i] for i, name in enumerate(qualities)}
        unsolved.append(bad.sum((1, 2)))
    overall = compare_trajectories(rows, " ".join(reference))
    own = tuple(
        compare_trajectories(
            {name: rows[f"{objective} {name}"] for name in qualities},
            "mean" if "mean" in qualities else qualities[0],
        )
        for objective in objectives
    )
    return SensitivityTable(
        objective=tuple(objective for objective in objectives for _ in qualities),
        quality=tuple(name for _ in objectives for name in qualities),
        congestion=np.stack(list(rows.values())),
        with_mean=own,
        with_reference=overall,
        reference=reference,
        checkpoints=np.tile(known.any(-1).sum(-1), len(objectives)),
        unsolved=np.concatenate(unsolved),
    )


# Compiled once for all calls, and once for all qualities of a source.
@partial(jax.jit, static_argnames="qualities")
def _estimate(source, weights, qualities: tuple[Quality, ...]):
    return [estimate_quality_and_load(source, weights, name) for name in qualities]


def _inputs(statistics, tokens_of, qualities, progress) -> tuple[np.ndarray, np.ndarray]:
    """Quality and load, `[quality, checkpoint, layer, expert]`; NaN quality where tokens lack."""
    count, texts, *shape = statistics.logit_sum.shape
    dtype = np.dtype(statistics.logit_sum.dtype)
    weights = np.ones((1, texts), dtype)
    quality = np.full((len(qualities), count, *shape), np.nan, dtype)
    load = np.full_like(quality, 1 / shape[-1])
    of_tokens = tuple(name for name in qualities if name in TOKEN_QUALITIES)
    of_sums = tuple(name for name in qualities if name not in TOKEN_QUALITIES)
    for index in progress(range(count)):
        sums = jax.tree.map(lambda leaf: leaf[index], statistics)  # noqa: B023
        tokens = tokens_of(index, sums) if of_tokens and tokens_of is not None else None
        for source, names in ((sums, of_sums), (tokens, of_tokens)):
            if source is not None and names:
                found = jax.device_get(_estimate(source, weights, names))
                for name, own in zip(names, found, strict=True):
                    row = qualities.index(name)
                    quality[row, index], load[row, index] = own[0][0], own[1][0]
    return quality, load


def _fit(objective: str, quality: np.ndarray, load: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if objective == "temperature":
        # Its inputs must be finite: the rows without tokens are taken out again afterwards.
        known = np.isfinite(quality)
        fit = fit_temperature(jnp.where(known, quality, 0), jnp.asarray(load))
        experts = quality.shape[-1]
        congestion = np.where(known.all(-1), experts * (np.asarray(fit.temperature) - 1), np.nan)
        return congestion, np.asarray(fit.status)
    chosen = cast(Objective, objective)
    *batch, experts = quality.shape
    fit = fit_rows(quality.reshape(-1, experts), load.reshape(-1, experts), chosen)
    return np.reshape(fit.congestion, batch), np.reshape(fit.status, batch)


def compare_trajectories(trajectories: Mapping[str, np.ndarray], reference: str) -> Sensitivity:
    """Compare trajectories `[checkpoint]` (or `[checkpoint, layer]`, averaged over layers).

    Missing checkpoints are NaN; pairs are compared on the checkpoints that both have. Correlation
    hides shifts: the paper's r >= 0.89 holds between proxies that are all locations of the same
    logits. Read `shift` beside it.

    Raises:
        ValueError: if the reference is not among the trajectories, or lengths differ.
    """
    if reference not in trajectories:
        raise ValueError(f"reference {reference!r} is not one of {sorted(trajectories)}")
    names = tuple(trajectories)
    series = [layer_average(np.asarray(trajectories[name], float)) for name in names]
    if len({len(values) for values in series}) != 1:
        lengths = {n: len(v) for n, v in zip(names, series, strict=True)}
        raise ValueError(f"trajectories differ in length: {lengths}")
    matrix = np.array([[_correlation(a, b) for b in series] for a in series])
    from scipy.stats import rankdata  # late: half a second that `track` has no use for

    at = names.index(reference)
    rank = [_correlation(values, series[at], rankdata) for values in series]
    both = [np.isfinite(values) & np.isfinite(series[at]) for values in series]
    shift = [
        (values - series[at])[here].mean() if here.any() else np.nan
        for values, here in zip(series, both, strict=True)
    ]
    counts = np.array([here.sum() for here in both])
    return Sensitivity(
        reference, names, matrix[at], np.array(rank), np.array(shift), counts, matrix
    )


def layer_average(values: np.ndarray) -> np.ndarray:
    """Over the layers that have an estimate."""
    if values.ndim == 1:
        return values
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.nanmean(np.where(np.isfinite(values), values, np.nan), axis=-1)


def _correlation(first: np.ndarray, second: np.ndarray, scale=np.asarray) -> float:
    both = np.isfinite(first) & np.isfinite(second)
    first, second = scale(first[both]), scale(second[both])
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])
