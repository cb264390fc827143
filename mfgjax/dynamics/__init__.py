"""Effective congestion over training: trajectories and their phases."""

from mfgjax.dynamics.layer_estimates import estimate_layers
from mfgjax.dynamics.paper_tests import layer_patterns
from mfgjax.dynamics.phases import segment_phases
from mfgjax.dynamics.trajectory import (
    Trajectory,
    estimate_checkpoint,
    estimate_trajectory,
)

__all__ = [
    "Trajectory",
    "estimate_checkpoint",
    "estimate_layers",
    "estimate_trajectory",
    "layer_patterns",
    "segment_phases",
]
