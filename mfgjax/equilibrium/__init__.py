"""Equilibria of routing games: solved, certified, differentiable."""

from mfgjax.equilibrium.solution import Solution, Status, check
from mfgjax.equilibrium.solve import solve_equilibrium

__all__ = ["Solution", "Status", "check", "solve_equilibrium"]
