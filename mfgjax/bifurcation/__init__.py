"""Signed congestion: the router bifurcation model, from two experts to M.

What a result holds, and what the figures are made of, is documented in the module that makes it.
"""

from mfgjax.bifurcation.margin import aux_loss_coef_to_avoid_collapse, collapse_margin
from mfgjax.bifurcation.mean_field import settle
from mfgjax.bifurcation.router import router_of_feedback
from mfgjax.bifurcation.symmetric import symmetric_thresholds

__all__ = [
    "aux_loss_coef_to_avoid_collapse",
    "collapse_margin",
    "router_of_feedback",
    "settle",
    "symmetric_thresholds",
]
