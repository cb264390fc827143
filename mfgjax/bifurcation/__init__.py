"""Signed congestion: the router bifurcation model, from two experts to M."""

from mfgjax.bifurcation.arclength import Branch, BranchStatus, trace_branch
from mfgjax.bifurcation.collapse_fold import CollapseFolds, collapse_folds
from mfgjax.bifurcation.control_plane import ControlPlane, control_plane
from mfgjax.bifurcation.deflation import Equilibria, deflated_equilibria
from mfgjax.bifurcation.diagram import Diagram, feedback_diagram
from mfgjax.bifurcation.hysteresis import HysteresisLoop, expected_jump, sweep_asymmetry
from mfgjax.bifurcation.margin import (
    CollapseMargin,
    MarginInterval,
    aux_loss_coef_to_avoid_collapse,
    check_margins,
    collapse_margin,
    margin_interval,
)
from mfgjax.bifurcation.mean_field import expected_load, integrate_gap, integrate_scores, settle
from mfgjax.bifurcation.response import NOISY_TOP1, SOFTMAX, Response
from mfgjax.bifurcation.router import (
    ReinforcedRouter,
    balanced_threshold,
    noisy_top1_threshold,
    router_of_feedback,
    softmax_threshold,
)
from mfgjax.bifurcation.simulate import Routing, Run, simulate_router
from mfgjax.bifurcation.smearing import (
    StationaryGap,
    smeared_width,
    stationary_gap,
    threshold_spread,
)
from mfgjax.bifurcation.special_points import PointKind, SpecialPoint, special_points
from mfgjax.bifurcation.stability import LogitDrift, growth_rates, logit_drift, unstable_directions
from mfgjax.bifurcation.symmetric import (
    SymmetricThresholds,
    branch_feedback,
    branch_load,
    collapse_potential,
    fold_log_ratio,
    symmetric_thresholds,
)
from mfgjax.bifurcation.two_expert import (
    StateStatus,
    TwoExpertStates,
    cusp_asymmetry,
    fold_asymmetry,
    fold_of_gap,
    pitchfork_gap,
    potential,
    two_expert_states,
)

__all__ = [
    "NOISY_TOP1",
    "SOFTMAX",
    "Branch",
    "BranchStatus",
    "CollapseFolds",
    "CollapseMargin",
    "ControlPlane",
    "Diagram",
    "Equilibria",
    "HysteresisLoop",
    "LogitDrift",
    "MarginInterval",
    "PointKind",
    "ReinforcedRouter",
    "Response",
    "Routing",
    "Run",
    "SpecialPoint",
    "StateStatus",
    "StationaryGap",
    "SymmetricThresholds",
    "TwoExpertStates",
    "aux_loss_coef_to_avoid_collapse",
    "balanced_threshold",
    "branch_feedback",
    "branch_load",
    "check_margins",
    "collapse_folds",
    "collapse_margin",
    "collapse_potential",
    "control_plane",
    "cusp_asymmetry",
    "deflated_equilibria",
    "expected_jump",
    "expected_load",
    "feedback_diagram",
    "fold_asymmetry",
    "fold_log_ratio",
    "fold_of_gap",
    "growth_rates",
    "integrate_gap",
    "integrate_scores",
    "logit_drift",
    "margin_interval",
    "noisy_top1_threshold",
    "pitchfork_gap",
    "potential",
    "router_of_feedback",
    "settle",
    "simulate_router",
    "smeared_width",
    "softmax_threshold",
    "special_points",
    "stationary_gap",
    "sweep_asymmetry",
    "symmetric_thresholds",
    "threshold_spread",
    "trace_branch",
    "two_expert_states",
    "unstable_directions",
]
