"""Routers with known truth, to test estimates against."""

from mfgjax.simulate.equilibrium_texts import draw_truth, simulate_texts

__all__ = [
    "draw_truth",
    "simulate_texts",
]
