"""Effective congestion over training: trajectories and their phases."""

from mfgjax.dynamics.trajectory import estimate_checkpoint, estimate_trajectory

__all__ = [
    "estimate_checkpoint",
    "estimate_trajectory",
]
