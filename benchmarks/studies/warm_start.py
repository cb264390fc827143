"""Does it help to start a solve at the equilibrium of the neighbouring congestion?

    python -m benchmarks.studies.warm_start [--games 16]

Games of four types and 64 experts, congestion swept geometrically from 0.1 to 200; each point but the
first is solved from scratch, and with the load of the point before as `start`. Steps per solve, the
evaluation of the start included. (A single-type game with the linear cost takes three explicit steps
wherever it starts.)
"""

from typing import Annotated

import jax
import numpy as np
import typer

from mfgjax.equilibrium import check, solve_equilibrium
from mfgjax.game import Game


def main(games: Annotated[int, typer.Option(help="per row")] = 16) -> None:
    """Steps of cold and warm solves along sweeps."""
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    solve = jax.jit(jax.vmap(solve_equilibrium))
    for spread in (0.6, 3.0, 10.0):
        quality = rng.normal(0, spread, (games, 4, 64))
        weight = rng.dirichlet(np.ones(4), games)
        for points in (10, 30, 100):
            steps, load = [], None
            for congestion in np.geomspace(0.1, 200, points):
                game = Game(quality, congestion, 1.0, weight)
                cold = check(solve(game))
                if load is not None:
                    warm = check(solve(game, start=load))
                    steps.append((cold.steps.mean(), warm.steps.mean()))
                load = cold.load
            from_scratch, from_there = np.mean(steps, axis=0)
            print(
                f"logits N(0, {spread}), {points} points: {from_scratch:.2f} cold, {from_there:.2f} warm, "
                f"saved {1 - from_there / from_scratch:.0%}"
            )


if __name__ == "__main__":
    typer.run(main)
