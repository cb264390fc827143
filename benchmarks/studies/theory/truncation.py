"""Theorem 5.6: distance of top-K-truncated fixed points from the equilibrium.

Every fixed point of every game is found, by trying each set of K experts; there may be none.
"""

from itertools import combinations

import jax.numpy as jnp
import numpy as np

from benchmarks.studies.theory.games import Check, equilibria, l1, qualities, response
from mfgjax.scope.bounds import top_k_bound, top_k_bound_from_mass

EXPERTS, TOP_K = 8, 3
CONGESTION = (0.1, 0.5, 1.0, 1.8, 4.0, 16.0)
FAR = -1e3
"""Quality of an expert that is out of the game."""


def run(rng, games: int) -> Check:
    sets = np.array(list(combinations(range(EXPERTS), TOP_K)))
    chosen = np.zeros((len(sets), EXPERTS), bool)
    np.put_along_axis(chosen, sets, True, axis=1)
    rows = []
    for congestion in CONGESTION:
        quality = qualities(rng, games, EXPERTS)
        dense = equilibria(quality, congestion)
        only = np.where(chosen[None], quality[:, None], FAR).reshape(-1, EXPERTS)
        load = equilibria(only, congestion).reshape(games, len(sets), EXPERTS) * chosen
        pull = quality[:, None] - congestion * load
        inside = np.where(chosen, pull, np.inf).min(-1)
        outside = np.where(chosen, -np.inf, pull).max(-1)
        fixed = inside >= outside
        distance = l1(load, dense[:, None])[fixed]
        pi = response(quality[:, None], np.full((games, len(sets)), congestion), load)
        dropped = np.where(chosen, 0, pi).sum(-1)[fixed]
        bound = float(top_k_bound(jnp.asarray(congestion), TOP_K, EXPERTS))
        plain = 2 * (1 - TOP_K / EXPERTS) / (1 - congestion / 2) if congestion < 2 else np.inf
        ours = np.asarray(top_k_bound_from_mass(jnp.asarray(dropped)))
        rows.append(
            {
                "gamma": congestion,
                "games": games,
                "without_fixed_point": int((~fixed.any(1)).sum()),
                "bound": plain,
                "says_nothing": not np.isfinite(bound),
                "largest_distance": float(distance.max()) if len(distance) else None,
                "violated": int((distance > plain).sum()),
                "smallest_slack": float((plain - distance).min())
                if len(distance) and np.isfinite(plain)
                else None,
                "bound_from_mass": float(np.median(ours)) if len(ours) else None,
                "mass_violated": int((distance > ours).sum()),
            }
        )
    none = {row["gamma"]: row["without_fixed_point"] / games for row in rows}
    finite = [row for row in rows if not row["says_nothing"]]
    said = (
        f"says anything (is below 2) only up to gamma = {max(r['gamma'] for r in finite):g} of those tried"
        if finite
        else "is never below 2"
    )
    verdict = (
        f"No violation; with K/M = {TOP_K}/{EXPERTS} the bound {said}. The fixed point it assumes is missing in "
        + ", ".join(
            f"{value:.0%} of games at gamma = {key:g}" for key, value in none.items() if key >= 0.5
        )
        + ". The bound from the dropped mass holds at any gamma, where there is a fixed point."
    )
    statement = "|mu* - mu_K|_1 <= 2 (1 - K/M) / (1 - gamma/2) for gamma < 2."
    return Check("Theorem 5.6", statement, rows, verdict)
