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
criterion (Schwarz, 1978, doi:10.1214/aos/1176344136); each boundary between phases is a parameter too
(but for two, see `phases`).

Many trajectories at once: all stretches that end at one checkpoint grow by the next one together.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

DORMANT, SURGE, STABILIZATION, RELAXATION = range(4)
SHORTEST_PLATEAU = 3
"""Fewest checkpoints that make a stabilization: two values are no plateau."""


@dataclasses.dataclass(frozen=True)
class SegmentCosts:
    """Best fits of every phase on every stretch, indexed `[row, phase, start, stop]`.

    Attributes:
        cost: (1); infinite where the phase's shape is impossible on the stretch.
        misfit: the first term of (1).
        first: value of the fit at the first checkpoint of the stretch.
        last: value of the fit at its last checkpoint.
    """

    cost: Float[np.ndarray, "row 4 start stop"]
    misfit: Float[np.ndarray, "row 4 start stop"]
    first: Float[np.ndarray, "row 4 start stop"]
    last: Float[np.ndarray, "row 4 start stop"]


def segment_costs(
    series: Float[np.ndarray, "row checkpoint"], sigma: Float[np.ndarray, " checkpoint"]
) -> SegmentCosts:
    """Fit each phase to each stretch of each row of `series`.

    Args:
        series: estimates, one per checkpoint.
        sigma: their standard deviations, positive, the same in every row.
    """
    rows, n = series.shape
    shape = (rows, 4, n + 1, n + 1)
    misfit, df = np.full(shape, np.inf), np.zeros(shape)
    first, last = np.zeros(shape), np.zeros(shape)
    weight = 1.0 / np.square(sigma)
    fits = (misfit, df, first, last)
    for phase, found in (
        (DORMANT, _zero(series, weight)),
        (SURGE, _monotone(series, weight)),
        (STABILIZATION, _constant(series, weight)),
        (RELAXATION, _falling_line(series, weight)),
    ):
        for into, values in zip(fits, found, strict=True):
            into[:, phase] = values
    return SegmentCosts(misfit + df * np.log(n), misfit, first, last)


def constant_cost(
    series: Float[np.ndarray, "row checkpoint"], sigma: Float[np.ndarray, " checkpoint"]
) -> Float[np.ndarray, " row"]:
    """Cost (1) of no phases at all: one level throughout."""
    weight = 1.0 / np.square(sigma)
    mean = series @ weight / weight.sum()
    return np.square(series - mean[:, None]) @ weight + np.log(series.shape[1])


def _stretch_sums(values: np.ndarray) -> np.ndarray:
    """Sums `[..., start, stop]` of the last axis over every stretch; 0 where it is empty."""
    n = values.shape[-1]
    sums = np.zeros((*values.shape[:-1], n + 1, n + 1))
    # Added up from each start: differences of sums over all would lose the small ones.
    sums[..., :n, 1:] = np.cumsum(values[..., None, :] * np.triu(np.ones((n, n))), axis=-1)
    return sums


def _lengths(n: int) -> np.ndarray:
    return np.arange(n + 1)[None, :] - np.arange(n + 1)[:, None]


def _zero(series, weight):
    misfit = _stretch_sums(weight * np.square(series))
    return np.where(_lengths(series.shape[1]) > 0, misfit, np.inf), 0.0, 0.0, 0.0


def _moments(series, weight):
    """Weight, mean and misfit of the best constant; sums of values near 0 lose no digits."""
    total = _stretch_sums(weight)
    safe = np.where(_lengths(series.shape[1]) > 0, total, 1)
    shift = series.mean(-1)[:, None, None]
    near = series - series.mean(-1, keepdims=True)
    mean = _stretch_sums(weight * near) / safe
    square = _stretch_sums(weight * np.square(near))
    return safe, mean + shift, np.maximum(square - safe * np.square(mean), 0)


def _constant(series, weight):
    _, mean, misfit = _moments(series, weight)
    long = _lengths(series.shape[1]) >= SHORTEST_PLATEAU
    return np.where(long, misfit, np.inf), 1.0, mean, mean


def _falling_line(series, weight):
    n = series.shape[1]
    length = _lengths(n)
    total, mean, misfit = _moments(series, weight)
    order = np.arange(n) - (n - 1) / 2
    near = series - series.mean(-1, keepdims=True)
    centre = _stretch_sums(weight * order) / total
    spread = _stretch_sums(weight * np.square(order)) - total * np.square(centre)
    product = _stretch_sums(weight * order * near)
    product = product - centre * _stretch_sums(weight * near)
    slope = np.where(length > 1, product / np.where(spread > 0, spread, 1), 0)
    line = np.maximum(misfit - slope * product, 0)
    possible = (length == 1) | ((length > 1) & (slope < 0))
    start, stop = order[0] + np.arange(n + 1)[:, None], order[0] + np.arange(n + 1)[None, :] - 1
    return (
        np.where(possible, line, np.inf),
        np.minimum(length, 2),
        mean + slope * (start - centre),
        mean + slope * (stop - centre),
    )


def _monotone(series, weight):
    """Isotonic fits: levels of each stretch on a stack, pooled from its end while they fall."""
    rows, n = series.shape
    shape = (rows, n + 1, n + 1)
    misfit, levels = np.full(shape, np.inf), np.zeros(shape)
    first, last = np.zeros(shape), np.zeros(shape)
    heavy, mean, cost = (np.zeros((rows, n, n)) for _ in range(3))  # [row, start, level]
    top = np.full((rows, n), -1)
    row, start = np.arange(rows)[:, None], np.arange(n)[None, :]
    for stop in range(1, n + 1):
        live = start < stop
        top[:, :stop] += 1
        here = row, start[:, :stop], top[:, :stop]
        heavy[here], mean[here], cost[here] = weight[stop - 1], series[:, stop - 1, None], 0
        while True:
            under = np.maximum(top - 1, 0)
            falls = live & (top > 0) & (mean[row, start, under] > mean[row, start, top])
            if not falls.any():
                break
            r, s = np.nonzero(falls)
            upper, lower = (r, s, top[r, s]), (r, s, under[r, s])
            total = heavy[lower] + heavy[upper]
            gap = mean[lower] - mean[upper]
            cost[lower] += cost[upper] + heavy[lower] * heavy[upper] / total * gap**2
            mean[lower] = (heavy[lower] * mean[lower] + heavy[upper] * mean[upper]) / total
            heavy[lower] = total
            top[r, s] -= 1
        at = slice(None), slice(0, stop), stop
        on = np.arange(n) <= top[:, :stop, None]
        misfit[at] = np.where(on, cost[:, :stop], 0).sum(-1)
        levels[at] = top[:, :stop] + 1
        first[at] = mean[:, :stop, 0]
        last[at] = mean[here[0], here[1], top[:, :stop]]
    return misfit, levels, first, last
