"""Welfare: what the equilibrium costs.

Costs are measured from each type's best expert at no load, plus the price of choosing sharply, so
that every term is nonnegative and ratios mean something:

    C(mu) = sum_k w_k sum_i mu^k_i (max_j q^k_j - q^k_i + gamma F(f_i))
            + lambda sum_k w_k (sum_i mu^k_i log mu^k_i + log M).                              (1)

Its minimiser is the equilibrium of the same game with marginal costs `F(f) + f F'(f)` (Beckmann,
McGuire and Winsten 1956), so the optimum comes from the same certified solver: see
`mfgjax.equilibrium.price_of_anarchy`.
"""

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from mfgjax.game.cost import Cost, Linear
from mfgjax.game.game import Game
from mfgjax.game.precision import full_precision
from mfgjax.game.response import aggregate, price


class MarginalCost(Cost):
    """`F(f) + f F'(f)`: what one more token costs all the others as well as itself."""

    own: Cost

    def __call__(self, load):
        return self.own(load) + load * self.own.slope(load)

    def integral(self, load):
        return load * self.own(load)

    def limit(self, load):
        return self.own.limit(load)

    def offset(self, load):
        return self.own.offset(load)


def marginal_game(game: Game) -> Game:
    """The game whose equilibrium minimises the social cost (1) of `game`.

    Needs `congestion >= 0` and a cost whose marginal cost is nondecreasing, as all convex ones are.
    """
    if isinstance(game.cost, Linear):
        return eqx.tree_at(lambda g: g.congestion, game, 2 * game.congestion)
    return eqx.tree_at(lambda g: g.cost, game, MarginalCost(game.cost))


@full_precision
def social_cost(game: Game, type_load: Float[Array, "*types experts"]) -> Float[Array, ""]:
    """`C` of (1), in logits per token, >= 0 for `congestion >= 0`."""
    load = aggregate(game, type_load)
    lost = game.quality.max(-1, keepdims=True) - game.quality
    own = (type_load * lost + game.temperature * xlogy(type_load, type_load)).sum(-1)
    weight = jnp.ones((), load.dtype) if game.weight is None else game.weight
    entropy = game.temperature * jnp.log(jnp.asarray(game.experts, load.dtype))
    return (weight * own).sum() + load @ price(game, load) + entropy
