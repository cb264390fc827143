"""Signed congestion: the router bifurcation model, from two experts to M.

What a result holds, and what the figures are made of, is documented in the module that makes it.
"""

from mfgjax.bifurcation.collapse_fold import collapse_folds
from mfgjax.bifurcation.diagram import feedback_diagram
from mfgjax.bifurcation.margin import aux_loss_coef_to_avoid_collapse, collapse_margin
from mfgjax.bifurcation.mean_field import settle
from mfgjax.bifurcation.router import router_of_feedback
from mfgjax.bifurcation.simulate import Routing
from mfgjax.bifurcation.symmetric import symmetric_thresholds
from mfgjax.bifurcation.two_expert import two_expert_states

__all__ = [
    "Routing",
    "aux_loss_coef_to_avoid_collapse",
    "collapse_folds",
    "collapse_margin",
    "feedback_diagram",
    "router_of_feedback",
    "settle",
    "symmetric_thresholds",
    "two_expert_states",
]
