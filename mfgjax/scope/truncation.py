"""What top-K choice costs the model: its truncated fixed point against its equilibrium, measured."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfgjax.equilibrium.truncated import solve_truncated
from mfgjax.game import Game
from mfgjax.game.response import best_response
from mfgjax.scope.bounds import top_k_bound, top_k_bound_from_mass


class Truncation(eqx.Module):
    """L1 distances are 0 to 2.

    Attributes:
        distance: from the equilibrium to the load where truncated best responses ended.
        dropped: mass of the full response to that load outside its top K.
        bound: Theorem 5.6; infinite where vacuous.
        bound_from_mass: from `dropped`, without contraction; holds at a fixed point only, so it is
            NaN where there was none.
        period: length of the cycle that the responses ended in, 0 if none was seen.
        status: a `mfgjax.equilibrium.Status`; `CYCLE` where no fixed point was reached.
    """

    distance: Float[Array, "*batch"]
    dropped: Float[Array, "*batch"]
    bound: Float[Array, "*batch"]
    bound_from_mass: Float[Array, "*batch"]
    period: Int[Array, "*batch"]
    status: Int[Array, "*batch"]


def measure_truncation(
    quality: Float[Array, " expert"],
    congestion: Float[Array, ""],
    equilibrium: Float[Array, " expert"],
    top_k: int,
) -> Truncation:
    """One single-type game at temperature 1; batch with `jax.vmap`. Never raises on values.

    Args:
        quality: in logits.
        congestion: >= 0.
        equilibrium: load without truncation (`mfgjax.solve_equilibrium`).
        top_k: experts kept. Static.
    """
    game = Game(quality, congestion)
    ended = solve_truncated(game, top_k)
    response = best_response(game, ended.load)
    dropped = 1 - jax.lax.top_k(response, top_k)[0].sum()
    return Truncation(
        distance=jnp.abs(ended.load - equilibrium).sum(),
        dropped=dropped,
        bound=top_k_bound(game.congestion, top_k, game.experts),
        bound_from_mass=jnp.where(ended.status == 0, top_k_bound_from_mass(dropped), jnp.nan),
        period=ended.period,
        status=ended.status,
    )
