"""The routing game and what is defined on it."""

from mfgjax.game.cost import CapacityBarrier, Cost, Linear, Power, Softplus, UserCost
from mfgjax.game.game import Game
from mfgjax.game.layered import LayeredGame, sweep
from mfgjax.game.potential import dual, gap, potential
from mfgjax.game.response import aggregate, best_response, price

__all__ = [
    "CapacityBarrier",
    "Cost",
    "Game",
    "LayeredGame",
    "Linear",
    "Power",
    "Softplus",
    "UserCost",
    "aggregate",
    "best_response",
    "dual",
    "gap",
    "potential",
    "price",
    "sweep",
]
