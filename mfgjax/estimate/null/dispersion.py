"""The dispersion null, closed form: the congestion of a router without any balancing; and the excess over it.

Token logits `z_i = q_i + sigma eps_i` with independent standard normal eps and top-K of M, no
balancing and no game, give a load of about `exp(h q_i / sigma)`, where h is the normal hazard
`pdf / (1 - cdf)` at the upper K/M quantile. Definition 3.1 fitted to that load returns

    gamma_null = M (sigma / h - 1)                                                         (1)

(derived: match the slope of log load in q around the uniform load, where `log load_i = h q_i/sigma`
must equal `q_i - gamma load_i` with `d load_i = d log load_i / M`). Good for small spread of q.
"""

from collections.abc import Sequence
from functools import partial
from statistics import NormalDist

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.estimate.inference.quality import estimate_dispersion
from mfgjax.estimate.inference.weights import jackknife_groups, leave_out_weights, unit_weights
from mfgjax.estimate.null.excess import ExcessCongestion, excess_of_jackknife, fit_loads
from mfgjax.trace import TokenTrace
from mfgjax.trace.schema import StatisticsTrace, TextStatistics
from mfgjax.trace.statistics import statistics_of


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


def dispersion_excess(
    trace: TokenTrace | StatisticsTrace,
    *,
    documents: Sequence[int] | None = None,
    level: float = 0.95,
) -> ExcessCongestion:
    """Excess over the dispersion null, of every layer, with paired intervals. No random numbers.

    The only excess that a trace in statistics form has. One spread stands for all experts, and (1) for
    the load: with unlike or skewed logits, or a large spread of quality, it is off where
    `permutation_excess` is not (`python -m benchmarks.studies.excess_power`).

    Args:
        trace: of either form.
        documents: document of each text, where documents were cut into texts: whole documents are
            then left out in turn.
        level: of the intervals, in (0, 1).

    Raises:
        ValueError: fewer than three texts (or documents), or all experts chosen by every token.
    """
    metadata = trace.metadata
    group = jackknife_groups(metadata.text_count, documents=documents)
    without = leave_out_weights(group)
    # To the host at once: out here each operation would be a program to compile.
    own, null = jax.device_get(_corrected(statistics_of(trace).statistics, without, metadata.top_k))
    return excess_of_jackknife("dispersion", own, null[0], null[1:], level, tuple(metadata.layers))


@partial(jax.jit, static_argnames="top_k")
def _corrected(statistics, without, top_k):
    (own,) = fit_loads(statistics, without)
    without = without.astype(statistics.logit_sum.dtype)
    weights = jnp.concatenate([unit_weights(without.shape[1], without.dtype), without])
    return own, weighted_null(statistics, weights, top_k)


def weighted_null(
    statistics: TextStatistics, weights: Float[Array, "resample text"], top_k: int
) -> Float[Array, "resample layer"]:
    """`null_congestion` of each layer under each weighting of the texts.

    Args:
        statistics: per-text sums of one checkpoint.
        weights: one row per resample.
        top_k: experts per token. Static.
    """
    spread = estimate_dispersion(
        weights, statistics.token_count, statistics.logit_sum, statistics.centred_square_sum
    )
    return null_congestion(spread, top_k, statistics.logit_sum.shape[-1])
