"""What bounds a solve of small games: the share of its time that the certificate takes.

    python -m benchmarks.studies.solve_parts

Blocks of 256 games of 64 experts, one device, CPU seconds, the best of interleaved runs: the whole
solve against one with a certificate of zeros.
"""

import time
from unittest import mock

import jax
import jax.numpy as jnp
import typer

from benchmarks.equilibrium import draw
from mfgjax.equilibrium import solve, solve_equilibrium
from mfgjax.equilibrium.certificate import Certificate


def compiled(game, certify):
    """The solver of a block with another certificate, compiled anew."""
    jax.clear_caches()
    with mock.patch.object(solve, "certify", certify):
        return jax.jit(jax.vmap(lambda one: solve_equilibrium(one))).lower(game).compile()


def nothing(game, rows):
    """A certificate that costs nothing."""
    del game
    return Certificate(*[jnp.zeros((), rows.dtype)] * 6)


def main(repeats: int = 60) -> None:
    """Shares of the CPU time, by dtype and number of types."""
    jax.config.update("jax_enable_x64", True)
    for dtype in ("float64", "float32"):
        for types in (1, 4):
            game = draw(256, types, 64, dtype)
            runs = [compiled(game, certify) for certify in (solve.certify, nothing)]
            best = [float("inf")] * 2
            for _ in range(repeats):
                for i, run in enumerate(runs):
                    begun = time.process_time()
                    jax.block_until_ready(run(game))
                    best[i] = min(best[i], time.process_time() - begun)
            print(f"{dtype}, K = {types}: the certificate takes {1 - best[1] / best[0]:.0%}")


if __name__ == "__main__":
    typer.run(main)
