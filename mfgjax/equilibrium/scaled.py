"""A game in units of its temperature: what the methods work on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mfgjax.game.cost import Cost
from mfgjax.game.game import Game

LARGEST_FLOOR = 0.01  # of all tokens: a residual above it is never put down to rounding alone


class Scaled(NamedTuple):
    """`q/lambda` for each type (one row for a single type), `gamma/lambda`, weights, cost."""

    quality: Float[Array, "types experts"]
    ratio: Float[Array, ""]
    weight: Float[Array, " types"]
    cost: Cost


def scale(game: Game, valid: Bool[Array, ""]) -> Scaled:
    """`game` in units of its temperature; harmless numbers in place of those of a game not valid."""
    types = 1 if game.weight is None else game.weight.shape[0]
    temperature = jnp.where(valid, game.temperature, 1)
    quality = jnp.where(valid, game.quality, 0).reshape(types, -1) / temperature
    ratio = jnp.where(valid, game.congestion, 0) / temperature
    even = jnp.full((types,), 1 / types, quality.dtype)
    weight = even if game.weight is None else jnp.where(valid, game.weight, even)
    # A type without tokens still has a response; a vanishing weight leaves the others alone.
    return Scaled(quality, ratio, jnp.maximum(weight, jnp.finfo(quality.dtype).eps ** 2), game.cost)


def mean_load(game: Scaled, rows: Float[Array, "types experts"]) -> Float[Array, " experts"]:
    """Load `sum_k w_k mu^k`."""
    return game.weight[0] * rows[0] if rows.shape[0] == 1 else game.weight @ rows


def net_quality(game: Scaled, load: Float[Array, " experts"]) -> Float[Array, "types experts"]:
    """Quality less price, in units of the temperature."""
    return game.quality - (game.ratio * game.cost(load))[None, :]


def response(game: Scaled, load: Float[Array, " experts"]) -> Float[Array, "types experts"]:
    """Dispatch fractions of each type against `load`."""
    return jax.nn.softmax(net_quality(game, load), axis=-1)


def steepest(game: Scaled) -> Float[Array, ""]:
    """`|gamma|/lambda` times the cost's slope at load 1, or just below the limit of a barrier."""
    top = jnp.minimum(1, 0.9 * game.cost.limit(jnp.ones_like(game.quality[0])))
    return jnp.abs(game.ratio) * game.cost.slope(top).max()


def rounding_floor(game: Scaled, steep: Float[Array, ""]) -> Float[Array, ""]:
    """Residual that rounding may leave, `steep` the largest elasticity of a price."""
    return 8 * jnp.finfo(game.quality.dtype).eps * (1 + jnp.abs(game.quality).max() + steep)
