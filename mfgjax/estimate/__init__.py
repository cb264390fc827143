"""Effective congestion from router statistics, with the evidence for it.

Rooms: `congestion` fits one congestion to a quality and a load, `inference` takes per-text sums to
estimates that know their noise, `null` says what a router without balancing would show.
"""

from mfgjax.estimate.congestion.fit import fit_congestion
from mfgjax.estimate.congestion.identification import fit_jointly
from mfgjax.estimate.congestion.result import check_fit
from mfgjax.estimate.inference.bootstrap import bootstrap_texts, congestion_estimator
from mfgjax.estimate.inference.interval import confidence_interval
from mfgjax.estimate.inference.quality import (
    estimate_dispersion,
    estimate_load,
    estimate_mean_quality,
)
from mfgjax.estimate.inference.text_fit import fit_texts
from mfgjax.estimate.inference.weights import leave_one_out_weights, unit_weights
from mfgjax.estimate.null.counterfactual import counterfactual_excess
from mfgjax.estimate.null.dispersion import dispersion_excess, null_congestion
from mfgjax.estimate.null.permutation import permutation_excess

__all__ = [
    "bootstrap_texts",
    "check_fit",
    "confidence_interval",
    "congestion_estimator",
    "counterfactual_excess",
    "dispersion_excess",
    "estimate_dispersion",
    "estimate_load",
    "estimate_mean_quality",
    "fit_congestion",
    "fit_jointly",
    "fit_texts",
    "leave_one_out_weights",
    "null_congestion",
    "permutation_excess",
    "unit_weights",
]
