"""Signed congestion: the router bifurcation model, from two experts to M.

What a result holds, and what the figures are made of, is documented in the module that makes it.
"""

from mfgjax.bifurcation.collapse_fold import collapse_folds
from mfgjax.bifurcation.control_plane import control_plane
from mfgjax.bifurcation.diagram import feedback_diagram
from mfgjax.bifurcation.hysteresis import sweep_asymmetry
from mfgjax.bifurcation.margin import aux_loss_coef_to_avoid_collapse, collapse_margin
from mfgjax.bifurcation.mean_field import integrate_scores, settle
from mfgjax.bifurcation.response import NOISY_TOP1, SOFTMAX
from mfgjax.bifurcation.router import ReinforcedRouter, router_of_feedback
from mfgjax.bifurcation.simulate import Routing, simulate_router
from mfgjax.bifurcation.smearing import stationary_gap
from mfgjax.bifurcation.symmetric import symmetric_thresholds
from mfgjax.bifurcation.two_expert import fold_asymmetry, two_expert_states

__all__ = [
    "NOISY_TOP1",
    "SOFTMAX",
    "ReinforcedRouter",
    "Routing",
    "aux_loss_coef_to_avoid_collapse",
    "collapse_folds",
    "collapse_margin",
    "control_plane",
    "feedback_diagram",
    "fold_asymmetry",
    "integrate_scores",
    "router_of_feedback",
    "settle",
    "simulate_router",
    "stationary_gap",
    "sweep_asymmetry",
    "symmetric_thresholds",
    "two_expert_states",
]
