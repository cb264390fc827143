"""The routing game and what is defined on it."""

from mfgjax.game.cost import CapacityBarrier, Linear, Power, Softplus, UserCost
from mfgjax.game.game import Game

__all__ = [
    "CapacityBarrier",
    "Game",
    "Linear",
    "Power",
    "Softplus",
    "UserCost",
]
