"""Effective congestion from router statistics, with the evidence for it."""

from mfgjax.estimate.best_response import fit_best_response
from mfgjax.estimate.congestion import OBJECTIVES, Objective, fit_congestion
from mfgjax.estimate.fit import CongestionFit, FitStatus, check_fit
from mfgjax.estimate.likelihood import fit_likelihood
from mfgjax.estimate.load import estimate_load
from mfgjax.estimate.null import normal_hazard, null_congestion
from mfgjax.estimate.quality import estimate_dispersion, estimate_mean_quality
from mfgjax.estimate.resample import leave_one_out_weights, resample_weights, unit_weights
from mfgjax.estimate.scope import (
    critical_congestion,
    explicit_congestion,
    in_scope,
    normalized_entropy,
    quality_spread,
    safety_margin,
)

__all__ = [
    "OBJECTIVES",
    "CongestionFit",
    "FitStatus",
    "Objective",
    "check_fit",
    "critical_congestion",
    "estimate_dispersion",
    "estimate_load",
    "estimate_mean_quality",
    "explicit_congestion",
    "fit_best_response",
    "fit_congestion",
    "fit_likelihood",
    "in_scope",
    "leave_one_out_weights",
    "normal_hazard",
    "normalized_entropy",
    "null_congestion",
    "quality_spread",
    "resample_weights",
    "safety_margin",
    "unit_weights",
]
