"""How well each phase's shape fits each stretch of a trajectory.

For every stretch `[i, j)` of checkpoints and every phase, the penalised misfit

    sum_t (x_t - fit_t)^2 / sigma_t^2 + df log n                                          (1)

of the best fit of the phase's shape:

* dormant: zero, df 0;
* surge: non-decreasing (isotonic regression, pool adjacent violators), df = number of levels;
* stabilization: constant, df 1;
* relaxation: a falling straight line in checkpoint order, df 2.

A line and not an antitonic fit for relaxation: any plateau is antitonic too, and the two phases
after the peak could not be told apart. `log n` per parameter is the Bayesian information
criterion (Schwarz, 1978, doi:10.1214/aos/1176344136); each boundary between phases is a parameter too.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

DORMANT, SURGE, STABILIZATION, RELAXATION = range(4)
SHORTEST_PLATEAU = 3
"""Fewest checkpoints that make a stabilization: two values are no plateau."""

Block = tuple[float, float, float]
"""Weight, mean and misfit of one level of an isotonic fit."""


@dataclasses.dataclass(frozen=True)
class SegmentCosts:
    """Best fits of every phase on every stretch, indexed `[phase, start, stop]`.

    Attributes:
        cost: (1); infinite where the phase's shape is impossible on the stretch.
        misfit: the first term of (1).
        first: value of the fit at the first checkpoint of the stretch.
        last: value of the fit at its last checkpoint.
    """

    cost: Float[np.ndarray, "4 start stop"]
    misfit: Float[np.ndarray, "4 start stop"]
    first: Float[np.ndarray, "4 start stop"]
    last: Float[np.ndarray, "4 start stop"]


def segment_costs(
    series: Float[np.ndarray, " checkpoint"],
    sigma: Float[np.ndarray, " checkpoint"],
    near_zero: Float[np.ndarray, " checkpoint"] | None = None,
) -> SegmentCosts:
    """Fit each phase to each stretch of `series`.

    Args:
        series: estimates, one per checkpoint.
        sigma: their standard deviations, positive.
        near_zero: distances from zero that still count as dormant; `sigma` if not given.
    """
    near_zero = sigma if near_zero is None else near_zero
    n = len(series)
    weight = 1.0 / np.square(sigma)
    misfit = np.full((4, n + 1, n + 1), np.inf)
    df = np.zeros((4, n + 1, n + 1))
    first, last = np.zeros_like(misfit), np.zeros_like(misfit)
    for start in range(n):
        zero = np.cumsum(np.square(series[start:] / near_zero[start:]))
        misfit[DORMANT, start, start + 1 :] = zero
        blocks: list[Block] = []
        for stop in range(start + 1, n + 1):
            here = (slice(None), start, stop)
            x, w = series[start:stop], weight[start:stop]
            mean = w @ x / w.sum()
            _append_monotone(blocks, (weight[stop - 1], series[stop - 1], 0.0))
            fall, top, end = _falling_line(x, w, mean)
            misfit[here][SURGE:] = sum(b[2] for b in blocks), w @ np.square(x - mean), fall
            df[here][SURGE:] = len(blocks), 1, min(2, stop - start)
            first[here][SURGE:] = blocks[0][1], mean, top
            last[here][SURGE:] = blocks[-1][1], mean, end
            if stop - start < SHORTEST_PLATEAU:
                misfit[STABILIZATION, start, stop] = np.inf
    return SegmentCosts(misfit + df * np.log(n), misfit, first, last)


def constant_cost(
    series: Float[np.ndarray, " checkpoint"], sigma: Float[np.ndarray, " checkpoint"]
) -> float:
    """Cost (1) of no phases at all: one level throughout."""
    weight = 1.0 / np.square(sigma)
    mean = weight @ series / weight.sum()
    return float(weight @ np.square(series - mean) + np.log(len(series)))


def _append_monotone(blocks: list[Block], block: Block) -> None:
    """Add one value on the right of an isotonic fit (pool adjacent violators)."""
    blocks.append(block)
    while len(blocks) > 1 and blocks[-2][1] > blocks[-1][1]:
        (w1, m1, c1), (w2, m2, c2) = blocks[-2], blocks[-1]
        total = w1 + w2
        merged = (w1 * m1 + w2 * m2) / total
        blocks[-2:] = [(total, merged, c1 + c2 + w1 * w2 / total * (m1 - m2) ** 2)]


def _falling_line(x: np.ndarray, w: np.ndarray, mean: float) -> tuple[float, float, float]:
    """Misfit, first and last value of the best falling line; an infinite misfit if it does not fall."""
    if len(x) == 1:
        return 0.0, mean, mean
    order = np.arange(len(x), dtype=float)
    order -= w @ order / w.sum()
    slope = w @ (order * x) / (w @ np.square(order))
    fit = mean + slope * order
    misfit = w @ np.square(x - fit) if slope < 0 else np.inf
    return float(misfit), float(fit[0]), float(fit[-1])
