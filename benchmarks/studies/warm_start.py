"""Would it help to start a solve at the equilibrium of the neighbouring congestion?

    python -m benchmarks.studies.warm_start [--games 16]

Games of four types and 64 experts, congestion swept geometrically from 0.1 to 200. A cold solve starts
from one step of the dual; a warm one from the responses to the load of the point before, at the game's own
temperature. Steps per solve, the evaluation of the start included. (A single-type game with the
linear cost takes three explicit steps wherever it starts.)
"""

from functools import partial
from typing import Annotated
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jax.nn import logsumexp

from mfgjax.equilibrium import check, newton, solve_equilibrium
from mfgjax.equilibrium.scaled import net_quality
from mfgjax.game import Game


def warm(game: Game, load):
    """The solution from a start at `load`."""

    def guess(scaled):
        normaliser = logsumexp(net_quality(scaled, load), axis=-1)
        return normaliser.mean(), normaliser - normaliser.mean()

    with mock.patch.multiple(newton, _guess=guess, SMOOTH=jnp.inf):
        # Not the jitted function of the module: its traces are remembered without the patch.
        return partial(solve_equilibrium, max_steps=199)(game)


def main(games: Annotated[int, typer.Option(help="per row")] = 16) -> None:
    """Steps of cold and warm solves along sweeps."""
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    solve, follow = jax.jit(jax.vmap(solve_equilibrium)), jax.jit(jax.vmap(warm))
    for spread in (0.6, 3.0, 10.0):
        quality = rng.normal(0, spread, (games, 4, 64))
        weight = rng.dirichlet(np.ones(4), games)
        for points in (10, 30, 100):
            steps, load = [], None
            for congestion in np.geomspace(0.1, 200, points):
                game = Game(quality, congestion, 1.0, weight)
                cold = check(solve(game))
                if load is not None:
                    there = check(follow(game, load))
                    steps.append((cold.steps.mean(), there.steps.mean()))
                load = cold.load
            from_scratch, from_there = np.mean(steps, axis=0)
            print(
                f"logits N(0, {spread}), {points} points: {from_scratch:.2f} cold, {from_there:.2f} warm, "
                f"saved {1 - from_there / from_scratch:.0%}"
            )


if __name__ == "__main__":
    typer.run(main)
