"""Equilibria of routing games: solved, certified, differentiable."""

from mfgjax.equilibrium.anarchy import price_of_anarchy
from mfgjax.equilibrium.batch import solve_equilibria
from mfgjax.equilibrium.multiple import find_equilibria
from mfgjax.equilibrium.solution import check
from mfgjax.equilibrium.solve import solve_equilibrium
from mfgjax.numerics.status import Status

__all__ = [
    "Status",
    "check",
    "find_equilibria",
    "price_of_anarchy",
    "solve_equilibria",
    "solve_equilibrium",
]
