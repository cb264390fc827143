"""The routing game and what is defined on it."""

from mfgjax.game.cost import CapacityBarrier, Cost, Linear, Power, Softplus, UserCost
from mfgjax.game.game import Game
from mfgjax.game.layered import Flow, LayeredGame, load_covariance, sweep
from mfgjax.game.potential import dual, gap, potential
from mfgjax.game.response import aggregate, best_response, price, truncated_response
from mfgjax.game.welfare import (
    exploitability,
    marginal_game,
    social_cost,
    swap_gap,
)

__all__ = [
    "CapacityBarrier",
    "Cost",
    "Flow",
    "Game",
    "LayeredGame",
    "Linear",
    "Power",
    "Softplus",
    "UserCost",
    "aggregate",
    "best_response",
    "dual",
    "exploitability",
    "gap",
    "load_covariance",
    "marginal_game",
    "potential",
    "price",
    "social_cost",
    "swap_gap",
    "sweep",
    "truncated_response",
]
