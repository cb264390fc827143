"""Theorem 5.2: the largest load is at most 1/M + B0/gamma; and how loose gamma_c is as an alarm."""

from benchmarks.studies.theory.games import EXPERTS, SPREAD, Check, equilibria, qualities

CONGESTION = (0.1, 1.0, 2.28, 8.5, 36.0)


def run(rng, games: int) -> Check:
    quality = qualities(rng, games)
    rows = []
    for congestion in CONGESTION:
        top = equilibria(quality, congestion).max(-1)
        bound = 1 / EXPERTS + SPREAD / congestion
        rows.append(
            {
                "gamma": congestion,
                "bound": bound,
                "largest_load": float(top.max()),
                "slack": float(bound - top.max()),
                "violated": int((top > bound).sum()),
                "games": games,
            }
        )
    critical = rows[2]
    verdict = (
        f"No violation. At gamma_c = {critical['gamma']} (B0 = {SPREAD}), where the bound allows one expert "
        f"everything, the largest load over {games} games is {critical['largest_load']:.3f}, and at gamma = 0.1 it is "
        f"{rows[0]['largest_load']:.3f}: the softmax itself is that even, and nothing happens at gamma_c."
    )
    return Check("Theorem 5.2", "max mu* <= 1/M + B0 / gamma.", rows, verdict)
