"""Best responses: what each type dispatches when it sees a load."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.game.game import Game
from mfgjax.game.precision import full_precision


def price(game: Game, load: Float[Array, " experts"]) -> Float[Array, " experts"]:
    """Congestion price `gamma F(load)` of each expert, in logits."""
    return game.congestion * game.cost(load)


def response_logits(game: Game, load: Float[Array, " experts"]) -> Float[Array, "*types experts"]:
    """`(quality - price(load)) / temperature`, per type where the game has types."""
    at = price(game, load)
    at = at if game.weight is None else at[None, :]
    return (game.quality - at) / game.temperature


def best_response(game: Game, load: Float[Array, " experts"]) -> Float[Array, "*types experts"]:
    """Dispatch fractions of each type against `load`: the map whose fixed point is equilibrium.

    Differentiable in both arguments. Definition 3.1 of arXiv 2604.04230 calls it `Phi`.
    """
    return jax.nn.softmax(response_logits(game, load), axis=-1)


@full_precision
def aggregate(game: Game, type_load: Float[Array, "*types experts"]) -> Float[Array, " experts"]:
    """Load `sum_k w_k mu^k` of dispatch fractions; the fractions themselves for one type."""
    return type_load if game.weight is None else game.weight @ type_load


def truncated_response(
    game: Game, load: Float[Array, " experts"], top_k: int
) -> Float[Array, "*types experts"]:
    """Best response kept on the `top_k` most attractive experts and renormalised.

    Source: the top-K-truncated best response of arXiv 2604.04230, Theorem 5.6. Ties go to the
    expert with the lower index. Discontinuous in `load` where the top-K set changes.

    Args:
        game: one game.
        load: load that tokens see.
        top_k: number of experts kept, static.
    """
    if not 1 <= top_k <= game.experts:
        raise ValueError(f"top_k is {top_k}; it must lie between 1 and {game.experts} experts")
    logits = response_logits(game, load)
    chosen = jax.lax.top_k(logits, top_k)[1]
    keep = jax.nn.one_hot(chosen, game.experts, dtype=bool).any(axis=-2)
    return jax.nn.softmax(jnp.where(keep, logits, -jnp.inf), axis=-1)
