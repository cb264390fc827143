"""Theorem 3.2: uniqueness (i), zero residual (ii) and continuity (iii) of the L1 estimate.

The residual is evaluated here on a fine grid by numpy, with no code of the library.
"""

import numpy as np

from benchmarks.studies.theory.games import Check, equilibria, l1, qualities, response

GRID = np.concatenate([np.linspace(0, 1, 200)[:-1], np.geomspace(1, 2000, 3000)])
KNOWN = np.array([1.7, -3.2, 1.2]), np.array([0.40, 0.29, 0.31])


def residuals(quality: np.ndarray, load: np.ndarray, grid: np.ndarray = GRID) -> np.ndarray:
    """`|Phi_gamma(mu) - mu|_1` along the grid."""
    return l1(response(quality[None], grid, load[None]), load[None])


def minima(values: np.ndarray) -> np.ndarray:
    """Indices of local minima deeper than rounding, ends included."""
    padded = np.concatenate([[np.inf], values, [np.inf]])
    keep = (padded[1:-1] < padded[:-2] - 1e-9) & (padded[1:-1] <= padded[2:] - 1e-9)
    return np.flatnonzero(keep)


def _several(rng, experts: int, games: int) -> dict:
    quality = qualities(rng, games, experts, None) * 1.5
    load = rng.dirichlet(np.full(experts, 3.0), games)
    several = wrong = 0
    for q, mu in zip(quality, load, strict=True):
        values = residuals(q, mu)
        found = minima(values)
        several += len(found) > 1
        wrong += len(found) > 1 and values[found[0]] > values[found].min()
    return {
        "statement": f"(i) one minimum, M = {experts}",
        "games": games,
        "violated": several,
        "measured": several / games,
        "what": "share with several minima",
        "first_minimum_not_global": wrong,
    }


def _jump(rng) -> dict:
    """A path of loads along which the global minimiser jumps."""
    best = None
    while best is None:
        quality = 2 * rng.normal(size=3)
        ends = rng.dirichlet(np.full(3, 3.0), 2)
        low, high = 0.0, 1.0

        def at(t, ends=ends, quality=quality):
            return GRID[residuals(quality, ends[0] + t * (ends[1] - ends[0])).argmin()]

        first, last = at(low), at(high)
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (
                (middle, high)
                if abs(at(middle) - first) < abs(at(middle) - last)
                else (low, middle)
            )
        before, after = at(low), at(high)
        if min(before, after) > 0.5 and max(before, after) < 500 and abs(after - before) > 10:
            best = {
                "statement": "(iii) continuous in the load",
                "games": 1,
                "violated": 1,
                "measured": float(abs(after - before)),
                "what": f"jump of gamma, {before:.1f} to {after:.1f}, as the load moves by "
                f"{l1(ends[0], ends[1]) * (high - low):.0e}; q = {np.round(quality, 4).tolist()}",
            }
    return best


def run(rng, games: int) -> Check:
    q, mu = KNOWN
    values = residuals(q, mu)
    found = minima(values)
    rows: list[dict] = [
        {
            "statement": "(i) one minimum, q = (1.7, -3.2, 1.2), mu = (.40, .29, .31)",
            "games": 1,
            "violated": int(len(found) > 1),
            "measured": len(found),
            "what": "minima: " + ", ".join(f"{values[k]:.3f} at {GRID[k]:.1f}" for k in found),
        },
        {
            "statement": "(i) one minimum, uniform load",
            "games": 1,
            "violated": int(np.ptp(residuals(q, np.full(3, 1 / 3))) < 1e-12),
            "measured": float(np.ptp(residuals(q, np.full(3, 1 / 3)))),
            "what": "range of the residual over gamma: every gamma is a minimiser",
        },
        {
            "statement": "proof: residual tends to 2",
            "games": 1,
            "violated": 1,
            "measured": float(residuals(q, mu, np.array([1e6]))[0]),
            "what": f"limit; 2 (1 - min mu) = {2 * (1 - mu.min()):.3f}",
        },
    ]
    rows += [_several(rng, experts, games) for experts in (3, 8, 64)]
    quality = qualities(rng, games)
    congestion = np.exp(rng.uniform(np.log(0.5), np.log(100), games))
    load = equilibria(quality, congestion)
    around = np.array([1.0])[None] * congestion[:, None]
    least = [residuals(q, mu, c)[0] for q, mu, c in zip(quality, load, around, strict=True)]
    rows.append(
        {
            "statement": "(ii) zero exactly at equilibria",
            "games": games,
            "violated": int((np.array(least) > 1e-9).sum()),
            "measured": float(np.max(least)),
            "what": "largest residual at the true gamma of solved equilibria",
        }
    )
    rows.append(_jump(rng))
    verdict = (
        "(ii) holds. (i) and (iii) do not: "
        + ", ".join(f"{row['measured']:.1%}" for row in rows if "first_minimum_not_global" in row)
        + " of random games at M = 3, 8, 64 have several minima, at the uniform load every gamma is a "
        f"minimiser, and the global minimiser jumps ({rows[-1]['what'].split(';')[0]})."
    )
    statement = "The L1 residual is unimodal: one minimiser, zero only at equilibria, continuous."
    return Check("Theorem 3.2", statement, rows, verdict)
