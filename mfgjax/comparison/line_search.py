"""Global search over one nonnegative parameter: a grid over many decades, then refinement.

L1 residuals have several local minima (see `mfgjax.estimate.best_response`), so nothing local is used.
The single-type congestion has a certified search there; this one serves the baselines beside it.
"""

from collections.abc import Callable

import numpy as np


def search_nonnegative(
    residual: Callable[[np.ndarray], np.ndarray],
    *,
    low: float = 1e-3,
    high: float = 1e4,
    points: int = 281,
    rounds: int = 6,
) -> float:
    """Minimiser of `residual` over 0 and `[low, high]`, to a relative width of about 1e-8.

    Args:
        residual: maps candidates to their residuals, vectorised.
        low: smallest positive candidate.
        high: largest candidate.
        points: of each grid, logarithmic.
        rounds: grids, each spanning the neighbours of the best point of the one before.
    """
    grid = np.concatenate([[0.0], np.geomspace(low, high, points)])
    for _ in range(rounds):
        values = residual(grid)
        best = int(np.argmin(values))
        left, right = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        found = float(grid[best])
        grid = np.concatenate([[found], np.linspace(left, right, 41)])
    return found
