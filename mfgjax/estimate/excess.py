"""Excess congestion: the estimate minus what logit dispersion alone would show."""

from functools import lru_cache

from mfgjax.estimate.bootstrap import Estimator
from mfgjax.estimate.congestion import Objective, fit_congestion
from mfgjax.estimate.load import estimate_load
from mfgjax.estimate.null import null_congestion
from mfgjax.estimate.quality import estimate_dispersion, estimate_mean_quality


@lru_cache
def excess_estimator(top_k: int, objective: Objective = "kl") -> Estimator:
    """For `bootstrap_texts`: congestion, null and excess per resample and layer.

    All three come from the same texts, so the percentile interval of the third is paired: what
    moves estimate and null together cancels. `"kl"` by default: the null is signed.
    """

    def estimate(statistics, weights):
        tokens, logits = statistics.token_count, statistics.logit_sum
        quality = estimate_mean_quality(weights, tokens, logits)
        load = estimate_load(weights, statistics.dispatch_count)
        fit = fit_congestion(quality, load, objective, count_minima=False)
        spread = estimate_dispersion(weights, tokens, logits, statistics.centred_square_sum)
        null = null_congestion(spread, top_k, load.shape[-1])
        return {"congestion": fit.congestion, "null": null, "excess": fit.congestion - null}

    return estimate
