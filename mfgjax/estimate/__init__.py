"""Effective congestion from router statistics, with the evidence for it.

Rooms: `congestion` fits one congestion to a quality and a load, `inference` takes per-text sums to
estimates that know their noise, `null` says what a router without balancing would show.
"""

from mfgjax.estimate.congestion.decomposition import decompose_congestion
from mfgjax.estimate.congestion.fit import fit_congestion
from mfgjax.estimate.congestion.identification import fit_jointly
from mfgjax.estimate.congestion.result import CongestionFit, check_fit
from mfgjax.estimate.congestion.temperature import fit_temperature
from mfgjax.estimate.inference.bootstrap import bootstrap_texts, congestion_estimator
from mfgjax.estimate.inference.corrected import fit_corrected
from mfgjax.estimate.inference.interval import (
    basic_interval,
    confidence_interval,
    jackknife_interval,
    paired_difference_interval,
    percentile_interval,
)
from mfgjax.estimate.inference.quality import (
    estimate_dispersion,
    estimate_load,
    estimate_mean_quality,
)
from mfgjax.estimate.inference.quality_choice import Quality, estimate_quality_and_load
from mfgjax.estimate.inference.text_fit import fit_texts
from mfgjax.estimate.inference.weights import leave_one_out_weights, resample_weights, unit_weights
from mfgjax.estimate.null.counterfactual import counterfactual_excess
from mfgjax.estimate.null.dispersion import dispersion_excess, null_congestion
from mfgjax.estimate.null.permutation import permutation_excess

__all__ = [
    "CongestionFit",
    "Quality",
    "basic_interval",
    "bootstrap_texts",
    "check_fit",
    "confidence_interval",
    "congestion_estimator",
    "counterfactual_excess",
    "decompose_congestion",
    "dispersion_excess",
    "estimate_dispersion",
    "estimate_load",
    "estimate_mean_quality",
    "estimate_quality_and_load",
    "fit_congestion",
    "fit_corrected",
    "fit_jointly",
    "fit_temperature",
    "fit_texts",
    "jackknife_interval",
    "leave_one_out_weights",
    "null_congestion",
    "paired_difference_interval",
    "percentile_interval",
    "permutation_excess",
    "resample_weights",
    "unit_weights",
]
