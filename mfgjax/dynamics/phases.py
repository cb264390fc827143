"""Phases of a trajectory: dormant, surge, stabilization, relaxation.

The paper (Mouzouni, arXiv 2604.04230, Section 3.3) names its phases by eye and by step number.
Here they are the ordered subset of the four shapes of `segment_cost` with the least penalised
misfit, found exactly by dynamic programming (in n^2 steps for n checkpoints), and claimed only if
they beat one constant level by more than known noise does. The same search over resampled
trajectories gives every label and every boundary a probability.

A surge is any rise, in one step or in many: a single step up is one, and what is level on either side
of it counts as its first and last level unless it makes a plateau of its own.
"""

import dataclasses
from itertools import combinations, pairwise
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
from mfgjax.numerics.status import NamedInteger


class Phase(NamedInteger):
    """What the router does; `NONE` where the trajectory claims no phases."""

    NONE = -1
    DORMANT = DORMANT
    SURGE = SURGE
    STABILIZATION = STABILIZATION
    RELAXATION = RELAXATION


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


# Each boundary is a fitted parameter, but for these two. They stand for a level of the surge that would
# have ended there: a start that cannot be told from 0, or a plateau at its top, is named.
_UNPAID = {(Phase.DORMANT, Phase.SURGE), (Phase.SURGE, Phase.STABILIZATION)}


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
        noise: where the noise is known from: `"resamples"`, `"intervals"`, or `"unknown"`: then no
            phase is claimed, and the probabilities, the gain and the misfit are NaN.
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
    intervals `[low, high]` (the upper half of those that 0 cuts off; NaN where an interval is missing:
    the median of the others is used). Without either nothing is claimed: noise guessed from
    the series itself makes phases of noise.

    Args:
        estimate: effective congestion in checkpoint order. Averages that are not cut off at 0 are
            dormant where the truth is 0; those that are lie above it.
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
    sigma, noise = _noise(estimate, resamples, low, high, confidence)
    if sigma is None:
        return _no_claim(len(estimate), noise)
    rng = np.random.default_rng(seed)
    if resamples is not None:
        rows = rng.choice(len(resamples), size=min(draws, len(resamples)), replace=False)
        simulated = np.asarray(resamples, dtype=float)[np.sort(rows)]
    else:
        simulated = estimate + sigma * rng.standard_normal((draws, len(estimate)))
        if (estimate >= 0).all():  # values that were cut off at 0, as those of Definition 3.1 are
            simulated = np.where(estimate > 0, np.maximum(simulated, 0), estimate)
    (label,), (gain,), (misfit,) = find_phases(estimate[None], sigma)
    # A resampled trajectory carries its own noise on top of the estimate's.
    labels, *_ = find_phases(simulated, np.sqrt(2) * sigma)
    boundary = 1 + np.flatnonzero(np.diff(label))
    before, after = labels[:, boundary - 1], labels[:, boundary]
    same = (before == label[boundary - 1]) & (after == label[boundary])
    return PhaseSegmentation(
        label=label,
        label_probability=(labels == label).mean(0),
        boundary=boundary,
        boundary_probability=same.mean(0),
        gain=float(gain),
        misfit=float(misfit),
        noise=noise,
    )


def _no_claim(n: int, noise: str) -> PhaseSegmentation:
    none, nothing = np.zeros(0, dtype=int), np.zeros(0)
    label, unknown = np.full(n, Phase.NONE), np.full(n, np.nan)
    return PhaseSegmentation(label, unknown, none, nothing, np.nan, np.nan, noise)


def _noise(estimate, resamples, low, high, confidence) -> tuple[np.ndarray | None, str]:
    # A spread of exactly zero (all resamples on the boundary) is no certainty.
    floor = 1e-3 * max(np.abs(estimate).max(), TINY)
    if resamples is not None:
        spread = np.std(resamples, axis=0, dtype=float)
        return np.maximum(spread, max(floor, 1e-3 * spread.max())), "resamples"
    if low is not None and high is not None and np.isfinite(low + high).any():
        low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        cut = low <= 0
        half = np.where(cut, high - estimate, (high - low) / 2)
        sigma = half / NormalDist().inv_cdf(0.5 + confidence / 2)
        sigma = np.where(np.isfinite(sigma), sigma, np.nanmedian(sigma))
        return np.maximum(sigma, floor), "intervals"
    return None, "unknown"


_NUMBERS = 2**21
"""Fits of one phase to hold at a time: more rows than that are searched in turn."""


def find_phases(
    series: Float[np.ndarray, "row checkpoint"], sigma: Float[np.ndarray, " checkpoint"]
) -> tuple[Int[np.ndarray, "row checkpoint"], Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Labels of the cheapest sequence of phases, its gain over one level, its reduced chi-square.

    Args:
        series: trajectories.
        sigma: standard deviation of each checkpoint, the same in every row.
    """
    at_once = max(1, _NUMBERS // (series.shape[1] + 1) ** 2)
    parts = [
        _best(series[start : start + at_once], sigma) for start in range(0, len(series), at_once)
    ]
    label, gain, misfit = (np.concatenate(found) for found in zip(*parts, strict=True))
    return label, gain, misfit


def _best(series: np.ndarray, sigma: np.ndarray):
    rows, n = series.shape
    fits = segment_costs(series, sigma)
    search = _Search(fits)
    least, choice = np.full(rows, np.inf), np.full(rows, -1)
    for number, sequence in enumerate(_SEQUENCES):
        total = search.total(sequence)
        better = total < least - _TIE
        least, choice = np.where(better, total, least), np.where(better, number, choice)
    flat = constant_cost(series, sigma)
    # Which phases there are does not pay for these boundaries; that there are any does.
    unpaid = [sum(pair in _UNPAID for pair in pairwise(found)) for found in _SEQUENCES]
    gain = flat - least - np.asarray(unpaid)[choice] * np.log(n)
    # One level throughout; dormant if that level cannot be told from zero.
    zero = fits.cost[:, Phase.DORMANT, 0, n] <= flat + LEAST_GAIN
    label = np.where(zero, Phase.DORMANT, Phase.NONE)[:, None].repeat(n, axis=1)
    misfit = (flat - np.log(n)) / (n - 1)
    for row in np.flatnonzero(gain > LEAST_GAIN).tolist():
        sequence = _SEQUENCES[choice[row]]
        edges = search.edges(sequence, row)
        found = spent = 0.0
        for phase, start, stop in zip(sequence, edges[:-1], edges[1:], strict=True):
            label[row, start:stop] = phase
            found += fits.misfit[row, phase, start, stop]
            spent += fits.cost[row, phase, start, stop] - fits.misfit[row, phase, start, stop]
        misfit[row] = found / max(n - spent / np.log(n), 1.0)
    return label, gain, misfit


class _Search:
    """Least cost of the first phases of a sequence, by where the last of them stops.

    Every phase but relaxation adds to what stops where it begins. Relaxation is the last of any
    sequence, so it stops at n, and what it must begin below depends on where it begins alone.
    """

    def __init__(self, fits: SegmentCosts):
        self.fits = fits
        self.n = fits.cost.shape[-1] - 1
        self.reached: dict[tuple[Phase, ...], tuple[np.ndarray, np.ndarray]] = {}

    def total(self, sequence: tuple[Phase, ...]) -> np.ndarray:
        """Cost of the whole sequence over all checkpoints, by row."""
        return self._reach(sequence)[0][:, self.n]

    def edges(self, sequence: tuple[Phase, ...], row: int) -> list[int]:
        """Where its phases start in one row, and n."""
        edges, least = [self.n], self._reach
        while sequence:
            edges.insert(0, int(least(sequence)[1][row, edges[0]]))
            relaxed = sequence[-1] == Phase.RELAXATION
            least = self._before_relaxation if relaxed else self._reach
            sequence = sequence[:-1]
        return edges

    def _reach(self, sequence: tuple[Phase, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Least cost `[row, stop]` and where the last phase then starts."""
        if sequence not in self.reached:
            ending = self._ending(sequence)
            start = ending.argmin(1)
            least = np.take_along_axis(ending, start[:, None], axis=1)[:, 0]
            self.reached[sequence] = least, start
        return self.reached[sequence]

    def _ending(self, sequence: tuple[Phase, ...]) -> np.ndarray:
        """Cost `[row, start, stop]` with the last phase on `[start, stop)`."""
        *before, phase = sequence
        cost = self.fits.cost[:, phase]
        if not before:
            alone = np.full_like(cost, np.inf)
            alone[:, 0] = cost[:, 0]
            if phase == Phase.SURGE:  # a surge rises
                rises = self.fits.last[:, phase, 0] > self.fits.first[:, phase, 0]
                alone[:, 0] = np.where(rises, alone[:, 0], np.inf)
            return alone
        least = self._before_relaxation if phase == Phase.RELAXATION else self._reach
        boundary = 0 if (before[-1], phase) in _UNPAID else np.log(self.n)
        return least(tuple(before))[0][:, :, None] + boundary + cost

    def _before_relaxation(self, sequence: tuple[Phase, ...]) -> tuple[np.ndarray, np.ndarray]:
        """As `_reach`, of those that stop half a step or more above where relaxation begins."""
        first = self.fits.first[:, Phase.RELAXATION, :, self.n]
        drop = first - self.fits.last[:, Phase.RELAXATION, :, self.n]
        step = drop / np.maximum(self.n - np.arange(self.n + 1) - 1, 1)
        before = self.fits.last[:, sequence[-1]]
        higher = (first[:, None] < before) & ((first + step / 2)[:, None] <= before)
        ending = np.where(higher, self._ending(sequence), np.inf)
        start = ending.argmin(1)
        return np.take_along_axis(ending, start[:, None], axis=1)[:, 0], start
