"""Routers with known truth, to test estimates against."""

from mfgjax.simulate.equilibrium_texts import draw_truth, simulate_texts
from mfgjax.simulate.sweep import SimulatedRun, simulate_sweep
from mfgjax.simulate.top_k_router import (
    balance_by_bias,
    balance_by_loss,
    choose_experts,
    draw_logits,
)

__all__ = [
    "SimulatedRun",
    "balance_by_bias",
    "balance_by_loss",
    "choose_experts",
    "draw_logits",
    "draw_truth",
    "simulate_sweep",
    "simulate_texts",
]
