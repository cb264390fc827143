"""Effective congestion from router statistics, with the evidence for it."""

from mfgjax.estimate.congestion.decomposition import (
    Decomposition,
    LayerGroup,
    decompose_congestion,
)
from mfgjax.estimate.congestion.diagnostics import (
    critical_congestion,
    explicit_congestion,
    in_scope,
    normalized_entropy,
    quality_spread,
    safety_margin,
)
from mfgjax.estimate.congestion.equilibrium import (
    fit_equilibrium,
)
from mfgjax.estimate.congestion.fit import (
    OBJECTIVES,
    Objective,
    fit_congestion,
)
from mfgjax.estimate.congestion.identification import (
    JointFit,
    fit_jointly,
)
from mfgjax.estimate.congestion.kl import (
    fit_likelihood,
)
from mfgjax.estimate.congestion.l1 import (
    fit_best_response,
)
from mfgjax.estimate.congestion.result import (
    CongestionFit,
    FitStatus,
    check_fit,
)
from mfgjax.estimate.congestion.temperature import (
    TemperatureFit,
    fit_temperature,
)
from mfgjax.estimate.inference.bootstrap import (
    BLOCK,
    Estimator,
    bootstrap_texts,
    congestion_estimator,
)
from mfgjax.estimate.inference.corrected import (
    CorrectedFit,
    fit_corrected,
    influence_error,
    score_interval,
)
from mfgjax.estimate.inference.interval import (
    basic_interval,
    bca_interval,
    confidence_interval,
    jackknife_estimate,
    jackknife_interval,
    normal_interval,
    paired_difference_interval,
    percentile_interval,
    simultaneous_band,
    studentized_interval,
)
from mfgjax.estimate.inference.quality import (
    estimate_dispersion,
    estimate_load,
    estimate_log_probability_quality,
    estimate_mean_quality,
    split_halves,
)
from mfgjax.estimate.inference.quality_choice import (
    QUALITIES,
    TOKEN_QUALITIES,
    Quality,
    estimate_quality_and_load,
)
from mfgjax.estimate.inference.sandwich import (
    sandwich_error,
    text_influence,
)
from mfgjax.estimate.inference.sensitivity import (
    SENSITIVITY_OBJECTIVES,
    Sensitivity,
    SensitivityTable,
    compare_trajectories,
    estimate_sensitivity,
)
from mfgjax.estimate.inference.text_fit import (
    fit_texts,
    leave_group_out_weights,
)
from mfgjax.estimate.inference.token_quality import (
    SortedTokens,
    TokenStatistics,
    estimate_median_quality,
    estimate_trimmed_quality,
    sort_tokens,
    with_tokens,
)
from mfgjax.estimate.inference.weights import (
    jackknife_groups,
    leave_one_out_weights,
    leave_out_weights,
    resample_weights,
    unit_weights,
)
from mfgjax.estimate.null.counterfactual import (
    PlainStatistics,
    counterfactual_excess_estimator,
    estimate_counterfactual_excess,
    plain_choices,
    with_plain_choices,
)
from mfgjax.estimate.null.dispersion import (
    excess_estimator,
    normal_hazard,
    null_congestion,
)
from mfgjax.estimate.null.independent import (
    BinnedStatistics,
    independent_load,
    with_bins,
)
from mfgjax.estimate.null.permutation import (
    permuted_load,
)
from mfgjax.estimate.null.permutation_excess import (
    ExcessCongestion,
    estimate_excess,
    permutation_excess_estimator,
)

__all__ = [
    "BLOCK",
    "OBJECTIVES",
    "QUALITIES",
    "SENSITIVITY_OBJECTIVES",
    "TOKEN_QUALITIES",
    "BinnedStatistics",
    "CongestionFit",
    "CorrectedFit",
    "Decomposition",
    "Estimator",
    "ExcessCongestion",
    "FitStatus",
    "JointFit",
    "LayerGroup",
    "Objective",
    "PlainStatistics",
    "Quality",
    "Sensitivity",
    "SensitivityTable",
    "SortedTokens",
    "TemperatureFit",
    "TokenStatistics",
    "basic_interval",
    "bca_interval",
    "bootstrap_texts",
    "check_fit",
    "compare_trajectories",
    "confidence_interval",
    "congestion_estimator",
    "counterfactual_excess_estimator",
    "critical_congestion",
    "decompose_congestion",
    "estimate_counterfactual_excess",
    "estimate_dispersion",
    "estimate_excess",
    "estimate_load",
    "estimate_log_probability_quality",
    "estimate_mean_quality",
    "estimate_median_quality",
    "estimate_quality_and_load",
    "estimate_sensitivity",
    "estimate_trimmed_quality",
    "excess_estimator",
    "explicit_congestion",
    "fit_best_response",
    "fit_congestion",
    "fit_corrected",
    "fit_equilibrium",
    "fit_jointly",
    "fit_likelihood",
    "fit_temperature",
    "fit_texts",
    "in_scope",
    "independent_load",
    "influence_error",
    "jackknife_estimate",
    "jackknife_groups",
    "jackknife_interval",
    "leave_group_out_weights",
    "leave_one_out_weights",
    "leave_out_weights",
    "normal_hazard",
    "normal_interval",
    "normalized_entropy",
    "null_congestion",
    "paired_difference_interval",
    "percentile_interval",
    "permutation_excess_estimator",
    "permuted_load",
    "plain_choices",
    "quality_spread",
    "resample_weights",
    "safety_margin",
    "sandwich_error",
    "score_interval",
    "simultaneous_band",
    "sort_tokens",
    "split_halves",
    "studentized_interval",
    "text_influence",
    "unit_weights",
    "with_bins",
    "with_plain_choices",
    "with_tokens",
]
