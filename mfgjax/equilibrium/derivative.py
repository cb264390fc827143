"""Derivative of an equilibrium with respect to everything in its game, in closed form.

At the fixed point `f = S(f, game)`, `S = sum_k w_k Phi^k`, the implicit function theorem gives

    (lambda + f g) df - sum_k w_k mu^k (g mu^k)' df = lambda dS,         g = gamma F'(f),     (1)

with `dS` the change of `S` at fixed load. The matrix is diagonal plus rank K. With
`u_k = sum_i g_i mu^k_i df_i` (1) is K equations, `(I - B diag(w)) u = v`, whose rows sum to
`sum_i mu^k_i lambda/(lambda + f_i g_i) > 0`: written from those sums, nothing cancels. The change of
one type's fractions among several, `dPhi^k`, is a difference of terms up to `f g/lambda` times larger
than the change of the load, and loses as many digits; the load's own does not.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mfgjax.equilibrium.type_system import eliminate
from mfgjax.game.game import Game
from mfgjax.game.precision import full_precision
from mfgjax.game.response import aggregate, best_response


@jax.custom_jvp
def attach_derivative(
    type_load: Float[Array, "*types experts"], game: Game, found: Bool[Array, ""]
) -> tuple[Float[Array, "*types experts"], Float[Array, " experts"]]:
    """`type_load` and its load, with the implicit derivative (1) where `found`, else NaN.

    A JVP rule that is linear in the tangent: reverse mode and higher orders follow. The NaN
    multiplies the tangent of the game: a `where` outside the rule would leave reverse mode with 0.
    """
    del found
    return type_load, aggregate(game, type_load)


@attach_derivative.defjvp
@full_precision
def _attach_derivative_jvp(primals, tangents):
    solved, game, found = primals
    _, game_dot, _ = tangents
    type_load, load = attach_derivative(solved, game, found)
    valid = jnp.where(found, 1, jnp.nan).astype(load.dtype)
    game_dot = jax.tree.map(lambda leaf: leaf * valid, game_dot)

    _, push = jax.jvp(lambda g: aggregate(g, best_response(g, load)), (game,), (game_dot,))
    load_dot = _solve(game, type_load, load, push)
    if game.weight is None:
        return (type_load, load), (load_dot, load_dot)
    _, type_load_dot = jax.jvp(best_response, (game, load), (game_dot, load_dot))
    return (type_load, load), (type_load_dot, load_dot)


def _solve(game: Game, type_load, load, push) -> Float[Array, " experts"]:
    """`df` of (1) for `dS = push`."""
    weight = jnp.ones((1,), load.dtype) if game.weight is None else game.weight
    slope = game.cost.slope(jnp.maximum(load, jnp.finfo(load.dtype).tiny))
    steep = game.congestion * slope / game.temperature
    if game.weight is None:
        # The same, for a push that sums to 0: no common shift that steep prices would bury it in.
        free = 1 / (1 + load * steep)
        return (push - load * ((free @ push) / (free @ load))) * free
    return load_change(type_load.reshape(-1, load.shape[0]), weight, load, steep, push)


def load_change(
    rows: Float[Array, "types experts"],
    weight: Float[Array, " types"],
    load: Float[Array, " experts"],
    steep: Float[Array, " experts"],
    push: Float[Array, " experts"],
) -> Float[Array, " experts"]:
    """`df` of (1) at the fractions `rows` for `dS = push`; `steep` is `g/lambda`."""
    off_zero = jnp.maximum(load, jnp.finfo(load.dtype).tiny)
    free = 1 / (1 + off_zero * steep)
    pulled = rows * (steep * free)[None, :]
    coupling = pulled @ rows.T * weight[None, :]
    row_sum = (rows * free[None, :]).sum(-1)
    u = eliminate(coupling, row_sum, pulled @ push)
    return (push + (weight * u) @ rows) * free
