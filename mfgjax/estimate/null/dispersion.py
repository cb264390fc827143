"""The congestion that a router without any balancing would show: the dispersion null, closed form.

Token logits `z_i = q_i + sigma eps_i` with independent standard normal eps and top-K of M, no
balancing and no game, give a load of about `exp(h q_i / sigma)`, where h is the normal hazard
`pdf / (1 - cdf)` at the upper K/M quantile. Definition 3.1 fitted to that load returns

    gamma_null = M (sigma / h - 1)                                                         (1)

(derived: match the slope of log load in q around the uniform load, where `log load_i = h q_i/sigma`
must equal `q_i - gamma load_i` with `d load_i = d log load_i / M`). Good for small spread of q.
"""

from functools import lru_cache
from statistics import NormalDist

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.estimate.congestion.fit import Objective, fit_congestion
from mfgjax.estimate.inference.bootstrap import Estimator
from mfgjax.estimate.inference.quality import (
    estimate_dispersion,
    estimate_load,
    estimate_mean_quality,
)


def normal_hazard(top_k: int, experts: int, dtype=jnp.float32) -> Float[Array, ""]:
    """Hazard of the standard normal at its upper `top_k / experts` quantile: 1.647 at 8 of 64.

    Raises:
        ValueError: unless `0 < top_k < experts`: with all experts chosen the load is uniform.
    """
    if not 0 < top_k < experts:
        raise ValueError(f"top_k must be in 1..experts-1, got top_k={top_k}, experts={experts}")
    share = top_k / experts
    normal = NormalDist()
    return jnp.asarray(normal.pdf(normal.inv_cdf(1 - share)) / share, dtype)


def null_congestion(
    dispersion: Float[Array, "*batch"], top_k: int, experts: int, temperature: float = 1.0
) -> Float[Array, "*batch"]:
    """`gamma_null` of (1), signed. Linear in `dispersion`, so differentiable and bootstrappable.

    Args:
        dispersion: token-level standard deviation of the logits (`estimate_dispersion`).
        top_k: experts chosen per token. Static.
        experts: number of experts M. Static.
        temperature: of the fit that it is compared with.
    """
    hazard = normal_hazard(top_k, experts, dispersion.dtype)
    return experts * (dispersion / hazard - temperature)


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
