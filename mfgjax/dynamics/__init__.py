"""Effective congestion over training: trajectories and their phases."""

from mfgjax.dynamics.layer_estimates import LayerEstimates, estimate_layers
from mfgjax.dynamics.paper_tests import LayerPattern, layer_patterns
from mfgjax.dynamics.phases import Phase, PhaseSegmentation, segment_phases
from mfgjax.dynamics.trajectory import (
    Trajectory,
    estimate_checkpoint,
    estimate_trajectory,
)

__all__ = [
    "LayerEstimates",
    "LayerPattern",
    "Phase",
    "PhaseSegmentation",
    "Trajectory",
    "estimate_checkpoint",
    "estimate_layers",
    "estimate_trajectory",
    "layer_patterns",
    "segment_phases",
]
