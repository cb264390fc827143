"""The price of anarchy: what tokens that choose for themselves cost, over the least possible.

The optimum is the equilibrium of the same game with marginal costs (see `mfgjax.game.welfare`), so
both ends of the ratio come with a certificate.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfgjax.equilibrium.solution import Solution
from mfgjax.equilibrium.solve import solve_equilibrium
from mfgjax.game.game import Game
from mfgjax.game.welfare import marginal_game, social_cost
from mfgjax.numerics.status import Status


class Anarchy(eqx.Module):
    """A price of anarchy and the two solutions that it compares; `check` takes it.

    Attributes:
        ratio: social cost of the equilibrium over that of the optimum, >= 1 up to rounding; NaN
            unless both are `CONVERGED`.
        status: that of the equilibrium, or of the optimum where the equilibrium is `CONVERGED`.
        residual: the larger of the two.
        equilibrium: of the game.
        optimum: of `marginal_game(game)`.
    """

    ratio: Float[Array, "*batch"]
    status: Int[Array, "*batch"]
    residual: Float[Array, "*batch"]
    equilibrium: Solution
    optimum: Solution


def price_of_anarchy(
    game: Game, *, tol: float | Float[Array, ""] | None = None, max_steps: int = 200
) -> Anarchy:
    """Social cost of the equilibrium over the least possible; batch with `jax.vmap`.

    At most 4/3 for the linear cost: the argument of Roughgarden and Tardos (2002, DOI
    10.1145/506147.506153) for affine delays carries over because the other terms of the social cost
    are convex and nonnegative. `ratio` is differentiable like a solution's `load`.

    Args:
        game: a game with `congestion >= 0` and a nondecreasing marginal cost, as all convex costs
            have; without batch axes.
        tol: of both solves, see `solve_equilibrium`.
        max_steps: of both solves, static.
    """
    equilibrium = solve_equilibrium(game, tol=tol, max_steps=max_steps)
    optimum = solve_equilibrium(marginal_game(game), tol=tol, max_steps=max_steps)
    first = equilibrium.status != Status.CONVERGED
    status = jnp.where(first, equilibrium.status, optimum.status)
    ratio = social_cost(game, _fractions(equilibrium)) / social_cost(game, _fractions(optimum))
    valid = jnp.where(status == Status.CONVERGED, 1, jnp.nan).astype(ratio.dtype)
    return Anarchy(
        ratio=ratio * valid,
        status=status,
        residual=jnp.maximum(equilibrium.residual, optimum.residual),
        equilibrium=equilibrium,
        optimum=optimum,
    )


def _fractions(solution: Solution) -> Float[Array, "*types experts"]:
    return solution.load if solution.type_load is None else solution.type_load
