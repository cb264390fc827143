"""Trainable two-expert layers driven through the threshold. Needs flax and scikit-learn."""

from mfgjax.bifurcation.experiments.sweep import Task, blobs_task, digits_task, sweep_strengths
from mfgjax.bifurcation.experiments.trainable_moe import (
    TrainedRun,
    Training,
    TwoExpertLayer,
    content_gap,
    content_threshold,
    train_two_experts,
)

__all__ = [
    "Task",
    "TrainedRun",
    "Training",
    "TwoExpertLayer",
    "blobs_task",
    "content_gap",
    "content_threshold",
    "digits_task",
    "sweep_strengths",
    "train_two_experts",
]
