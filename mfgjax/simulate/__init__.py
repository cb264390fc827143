"""Routers with known truth, to test estimates against."""

from mfgjax.simulate.equilibrium_texts import RouterTruth, draw_truth, simulate_texts
from mfgjax.simulate.sweep import SimulatedRun, simulate_sweep
from mfgjax.simulate.top_k_router import (
    balance_by_bias,
    balance_by_loss,
    choose_experts,
    draw_logits,
)
from mfgjax.simulate.typed_tokens import simulate_typed_tokens

__all__ = [
    "RouterTruth",
    "SimulatedRun",
    "balance_by_bias",
    "balance_by_loss",
    "choose_experts",
    "draw_logits",
    "draw_truth",
    "simulate_sweep",
    "simulate_texts",
    "simulate_typed_tokens",
]
