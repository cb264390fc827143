"""Many games, a block at a time.

Games solved by one `jax.vmap` take their steps together, so each waits for the slowest, and the arrays
of thousands leave the cache. A block waits for its own slowest only. Every game is solved by itself: the
answer does not depend on the block.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from mfgjax.equilibrium.solution import Solution
from mfgjax.equilibrium.solve import solve_equilibrium
from mfgjax.game.game import Game
from mfgjax.numerics.filled import filled_up

BLOCK = 256


@partial(jax.jit, static_argnames=("method", "max_steps", "block"))
def solve_equilibria(
    games: Game,
    *,
    method: str = "newton",
    tol: float | Float[Array, ""] | None = None,
    max_steps: int = 200,
    start: Float[Array, "*batch experts"] | None = None,
    block: int = BLOCK,
) -> Solution:
    """`solve_equilibrium` of every game of a batch, `block` games at a time; one device.

    Statuses, certificates and derivatives are those of `solve_equilibrium`. Over a mesh of devices,
    call it inside `jax.shard_map`.

    Args:
        games: a game with one or more batch axes.
        method, tol, max_steps: see `solve_equilibrium`.
        start: a load for every game, see `solve_equilibrium`.
        block: static; games that take their steps together.

    Returns:
        A `Solution` whose fields have the batch axes in front.

    Raises:
        ValueError: for a game without batch axes, an unknown method, or a `start` of another shape.
    """
    batch = games.quality.shape[: -1 if games.weight is None else -2]
    if not batch:
        raise ValueError("one game has no batch to solve: use solve_equilibrium")
    if start is not None and jnp.shape(start) != (*batch, games.experts):
        raise ValueError(
            f"start has shape {jnp.shape(start)}: {(*batch, games.experts)} is needed, a load a game"
        )

    @jax.vmap
    def solve(game, start):
        return solve_equilibrium(game, method=method, tol=tol, max_steps=max_steps, start=start)

    total = math.prod(batch)
    size = min(block, total)
    blocks = -(-total // size) if total else 0
    # Filled up with the last game: a shorter block would compile the solver once more.
    which = jnp.minimum(jnp.arange(blocks * size), total - 1).reshape(blocks, size)
    given = games, None if start is None else jnp.asarray(start)
    flat = jax.tree.map(lambda leaf: leaf.reshape(total, *leaf.shape[len(batch) :]), given)
    out = lax.map(lambda at: solve(*jax.tree.map(lambda leaf: leaf[at], flat)), which)
    return jax.tree.map(
        lambda leaf: leaf.reshape(blocks * size, *leaf.shape[2:])[:total].reshape(
            *batch, *leaf.shape[2:]
        ),
        out,
    )


def solve_rows(
    quality: Float[np.ndarray, "row *type expert"],
    congestion: Float[np.ndarray, " row"],
    weight: Float[np.ndarray, "row type"] | None = None,
) -> Solution:
    """Equilibria of games in rows, on the host: in and out are arrays of NumPy.

    Filled up to a multiple of `BLOCK` with the last game: jobs of different size share one program.
    """
    games = (quality, congestion) if weight is None else (quality, congestion, weight)
    return filled_up(_solve_rows, BLOCK, *games)


# Takes arrays of NumPy: games made of them out there would be ten small programs to compile.
@jax.jit
@jax.vmap
def _solve_rows(quality, congestion, weight=None):
    return solve_equilibrium(Game(quality, congestion, weight=weight))
