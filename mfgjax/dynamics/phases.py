"""Phases of a trajectory: dormant, surge, stabilization, relaxation.

The paper (Mouzouni, arXiv 2604.04230, Section 3.3) names its phases by eye and by step number.
Here they are the ordered subset of the four shapes of `segment_cost` with the least penalised
misfit, found exactly by dynamic programming, and claimed only if they beat one constant level.
The same search over resampled trajectories gives every label and every boundary a probability.
"""

import dataclasses
import enum
from itertools import combinations
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

from mfgjax.dynamics.segment_cost import (
    DORMANT,
    RELAXATION,
    STABILIZATION,
    SURGE,
    SegmentCosts,
    constant_cost,
    segment_costs,
)


class Phase(enum.IntEnum):
    """What the router does; `NONE` where the trajectory claims no phases."""

    NONE = -1
    DORMANT = DORMANT
    SURGE = SURGE
    STABILIZATION = STABILIZATION
    RELAXATION = RELAXATION


DORMANT_SHARE = 0.05
"""Where the noise is only guessed from differences, what counts as zero is at most this share of the
peak: a coarse guess must not make the foot of a surge pass for dormancy."""

LEAST_GAIN = 6.0
"""Gain over one constant level below which no phases are claimed: "strong" evidence is 6 to 10 on
this scale (Kass and Raftery, 1995, doi:10.1080/01621459.1995.10476572)."""

TINY = 1e-12

_TIE = 1e-9


def _sensible(sequence: tuple[Phase, ...]) -> bool:
    """A plateau needs a neighbour that tells it from no phases at all, and a dormant router a surge."""
    if Phase.DORMANT in sequence[:1]:
        return sequence[1:2] in ((), (Phase.SURGE,))
    return sequence != (Phase.STABILIZATION,)


_ORDER = (Phase.DORMANT, Phase.SURGE, Phase.STABILIZATION, Phase.RELAXATION)
# Longer sequences first: where a plateau fits as well alone as within a surge, it is named.
_SEQUENCES = [
    sequence
    for size in (4, 3, 2, 1)
    for sequence in combinations(_ORDER, size)
    if _sensible(sequence)
]


@dataclasses.dataclass(frozen=True)
class PhaseSegmentation:
    """Labels of the checkpoints of one trajectory, with the evidence for them.

    Attributes:
        label: a `Phase` per checkpoint.
        label_probability: share of resampled trajectories that give each checkpoint this label.
        boundary: index of the first checkpoint of each phase after the first.
        boundary_probability: share of resampled trajectories with the same change of phase there.
        gain: how much the penalised misfit improves on one constant level; phases are claimed
            above `LEAST_GAIN`.
        misfit: reduced chi-square of the segmentation. Well above 1 means that these four shapes
            do not describe the trajectory (a second surge, say), and the labels are only the best
            of a bad choice.
        noise: where `sigma` came from: `"resamples"`, `"intervals"` or `"differences"`.
    """

    label: Int[np.ndarray, " checkpoint"]
    label_probability: Float[np.ndarray, " checkpoint"]
    boundary: Int[np.ndarray, " boundary"]
    boundary_probability: Float[np.ndarray, " boundary"]
    gain: float
    misfit: float
    noise: str

    @property
    def names(self) -> list[str]:
        return [Phase(code).name.lower() for code in self.label]


def segment_phases(
    estimate: Float[np.ndarray, " checkpoint"],
    *,
    resamples: Float[np.ndarray, "resample checkpoint"] | None = None,
    low: Float[np.ndarray, " checkpoint"] | None = None,
    high: Float[np.ndarray, " checkpoint"] | None = None,
    confidence: float = 0.95,
    draws: int = 400,
    seed: int = 0,
) -> PhaseSegmentation:
    """Label each checkpoint of a trajectory.

    The noise of each estimate is taken from bootstrap `resamples` if given, else from the
    intervals `[low, high]` (NaN where an interval is missing: the median of the others is used),
    else from the smallest differences between neighbouring checkpoints: a rough guess, never below
    2% of the peak.

    Args:
        estimate: effective congestion in checkpoint order.
        resamples: bootstrap trajectories; kept as trajectories, so noise shared by checkpoints
            (the same texts) stays shared.
        low: lower ends of the intervals.
        high: upper ends.
        confidence: level of the intervals.
        draws: trajectories to segment for the probabilities.
        seed: of the draw of trajectories.

    Raises:
        ValueError: fewer than three checkpoints, or non-finite estimates.
    """
    estimate = np.asarray(estimate, dtype=float)
    if estimate.ndim != 1 or len(estimate) < 3:
        raise ValueError(f"phases need at least 3 checkpoints in one row, got {estimate.shape}")
    if not np.isfinite(estimate).all():
        where = np.flatnonzero(~np.isfinite(estimate)).tolist()
        raise ValueError(f"the estimate is not finite at checkpoints {where}")
    rng = np.random.default_rng(seed)
    sigma, noise = _noise(estimate, resamples, low, high, confidence)
    if resamples is not None:
        rows = rng.choice(len(resamples), size=min(draws, len(resamples)), replace=False)
        simulated = np.asarray(resamples, dtype=float)[np.sort(rows)]
    else:
        simulated = np.maximum(estimate + sigma * rng.standard_normal((draws, len(estimate))), 0)
        simulated = np.where(estimate > 0, simulated, estimate)  # a boundary zero stays there
    near_zero = sigma
    if noise == "differences":
        near_zero = np.minimum(sigma, DORMANT_SHARE * max(np.abs(estimate).max(), TINY))
    label, gain, misfit = _best(estimate, sigma, near_zero)
    # A resampled trajectory carries its own noise on top of the estimate's.
    wider = np.sqrt(2) * sigma, np.sqrt(2) * near_zero
    labels = np.stack([_best(row, *wider)[0] for row in simulated])
    boundary = 1 + np.flatnonzero(np.diff(label))
    same = [
        np.mean((labels[:, b - 1] == label[b - 1]) & (labels[:, b] == label[b])) for b in boundary
    ]
    return PhaseSegmentation(
        label=label,
        label_probability=(labels == label).mean(0),
        boundary=boundary,
        boundary_probability=np.asarray(same, dtype=float),
        gain=gain,
        misfit=misfit,
        noise=noise,
    )


def _noise(estimate, resamples, low, high, confidence) -> tuple[np.ndarray, str]:
    scale = max(np.abs(estimate).max(), TINY)
    floor = 1e-3 * scale  # a spread of exactly zero (all resamples on the boundary) is no certainty
    if resamples is not None:
        return np.maximum(np.std(resamples, axis=0), floor), "resamples"
    if low is not None and high is not None and np.isfinite(low + high).any():
        width = NormalDist().inv_cdf(0.5 + confidence / 2) * 2
        sigma = (np.asarray(high, dtype=float) - np.asarray(low, dtype=float)) / width
        sigma = np.where(np.isfinite(sigma), sigma, np.nanmedian(sigma))
        return np.maximum(sigma, floor), "intervals"
    # The lower quartile, not the median: most steps of a trajectory carry signal, few are noise alone.
    spread = np.quantile(np.abs(np.diff(estimate)), 0.25) / (
        NormalDist().inv_cdf(0.625) * np.sqrt(2)
    )
    return np.full(len(estimate), max(spread, 20 * floor)), "differences"


def _best(
    series: np.ndarray, sigma: np.ndarray, near_zero: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """Labels of the cheapest sequence of phases, its gain over one level, its reduced chi-square."""
    n = len(series)
    fits = segment_costs(series, sigma, near_zero)
    least, sequence, edges = np.inf, (Phase.NONE,), (0, n)
    for candidate in _SEQUENCES:
        total, cuts = _cheapest_cuts(fits, candidate, n)
        if total < least - _TIE:
            least, sequence, edges = total, candidate, (0, *cuts, n)
    flat = constant_cost(series, sigma)
    gain = flat - least
    if gain <= LEAST_GAIN:
        # One level throughout; dormant if that level cannot be told from zero.
        zero = fits.cost[Phase.DORMANT, 0, n] <= flat + LEAST_GAIN
        label = np.full(n, Phase.DORMANT if zero else Phase.NONE)
        return label, float(gain), float((flat - np.log(n)) / (n - 1))
    stretches = list(zip(sequence, edges[:-1], edges[1:], strict=True))
    label = np.concatenate([np.full(stop - start, phase) for phase, start, stop in stretches])
    misfit = sum(fits.misfit[stretch] for stretch in stretches)
    spent = sum(fits.cost[stretch] - fits.misfit[stretch] for stretch in stretches) / np.log(n)
    return label, float(gain), float(misfit / max(n - spent, 1.0))


def _cheapest_cuts(
    fits: SegmentCosts, sequence: tuple[Phase, ...], n: int
) -> tuple[float, tuple[int, ...]]:
    """Least total cost of `sequence` over all places of its boundaries (exhaustive, on a grid)."""
    count = len(sequence) - 1
    total = np.full((1,) * count, count * np.log(n))  # each boundary is a fitted parameter
    cuts = np.meshgrid(*[np.arange(1, n)] * count, indexing="ij", sparse=True)
    edges = [np.zeros((1,) * count, dtype=int), *cuts, np.full((1,) * count, n)]
    for position, phase in enumerate(sequence):
        start, stop = edges[position], edges[position + 1]
        total = total + np.where(start < stop, fits.cost[phase, start, stop], np.inf)
        first, last = fits.first[phase, start, stop], fits.last[phase, start, stop]
        if position == 0:
            if phase == Phase.SURGE:
                total = np.where(last > first, total, np.inf)  # a surge rises
            continue
        before = fits.last[sequence[position - 1], edges[position - 1], start]
        if phase == Phase.RELAXATION:  # begins half a step or more below what it leaves
            step = (first - last) / np.maximum(stop - start - 1, 1)
            total = np.where((first < before) & (first <= before - step / 2), total, np.inf)
    where = np.unravel_index(np.argmin(total), total.shape)
    return float(total[where]), tuple(int(i) + 1 for i in where)
