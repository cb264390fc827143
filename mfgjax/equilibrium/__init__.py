"""Equilibria of routing games: solved, certified, differentiable."""

from mfgjax.equilibrium.anarchy import price_of_anarchy
from mfgjax.equilibrium.batch import solve_equilibria
from mfgjax.equilibrium.layered import solve_layered, solve_layers_apart
from mfgjax.equilibrium.multiple import Equilibria, find_equilibria
from mfgjax.equilibrium.solution import Solution, check
from mfgjax.equilibrium.solve import solve_equilibrium
from mfgjax.equilibrium.truncated import solve_truncated
from mfgjax.numerics.status import Status

__all__ = [
    "Equilibria",
    "Solution",
    "Status",
    "check",
    "find_equilibria",
    "price_of_anarchy",
    "solve_equilibria",
    "solve_equilibrium",
    "solve_layered",
    "solve_layers_apart",
    "solve_truncated",
]
