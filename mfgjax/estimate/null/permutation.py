"""The permutation null: every expert's own logits, experts independent; and the excess over it.

`permuted_load` shuffles every expert's logits over tokens on their own. In the limit of many shuffles
the load it gives is a number that can be computed: with F_j the distribution of the logits of expert
j over tokens, expert i is chosen at logit z when fewer than K of the others exceed z, so

    load_i = (1/K) E_{z ~ F_i} P(N_{-i}(z) < K),    N_{-i}(z) = sum_{j != i} Bernoulli(1 - F_j(z))    (1)

(derived). N is Poisson binomial; its first K probabilities come from a recursion over experts that
only adds and multiplies positive numbers, and leaving one expert out is a prefix times a suffix. F
enters through counts of logits between fixed edges, per text: sums over texts, so that a resample is
again a matrix product, and no random numbers are drawn.
"""

from collections.abc import Sequence
from functools import partial
from statistics import NormalDist

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, Int

from mfgjax.estimate.inference.corrected import CorrectedFit
from mfgjax.estimate.inference.token_quality import add_fields
from mfgjax.estimate.inference.weights import (
    jackknife_groups,
    leave_out_weights,
    sum_over_texts,
)
from mfgjax.estimate.null.excess import ExcessCongestion, excess_of_pair, fit_loads
from mfgjax.estimate.null.own_logits import own_logits
from mfgjax.trace import TokenTrace
from mfgjax.trace.schema import TextStatistics
from mfgjax.trace.statistics import statistics_of

BINS = 128
"""Bins per layer: enough for a congestion within 0.1 of that of ten times as many."""


class BinnedStatistics(TextStatistics):
    """Per-text sums of one checkpoint with counts of its `own_logits`: fits wherever the sums do."""

    bin_count: Float[Array, "text layer expert bin"]


@partial(jax.jit, static_argnames=("top_k", "bins"))
def with_bins(
    statistics: TextStatistics,
    logits: Float[Array, "token layer expert"],
    text: Int[Array, " token"],
    top_k: int,
    bins: int = BINS,
) -> BinnedStatistics:
    """Add counts of the logits that `statistics` are of.

    Edges are quantiles of the layer's `own_logits` over all experts. M times the share of logits
    above z is the expected number of experts that exceed z, so nothing is chosen where it is many
    standard deviations, at most sqrt(K) each, above K: all that lies there is one bin.

    Args:
        statistics: sums over the same tokens.
        logits: raw router logits.
        text: index of each token's text.
        top_k: experts per token. Static.
        bins: number of bins. Static.
    """
    dtype = statistics.logit_sum.dtype
    own = own_logits(jnp.asarray(logits).astype(dtype))
    crowded = (top_k + 5 * top_k**0.5 + 3) / logits.shape[-1]
    lowest = max(-4.0, NormalDist().inv_cdf(1 - min(crowded, 1 - 1e-5)))
    share = ndtr(jnp.linspace(lowest, 4.0, bins - 1, dtype=dtype))
    text = jnp.asarray(text)
    texts = statistics.token_count.shape[0]

    def one(layer):
        edges = jnp.quantile(layer, share)
        place = jnp.searchsorted(edges, layer)
        experts = jnp.arange(layer.shape[1])
        counts = jnp.zeros((texts, layer.shape[1], bins), dtype)
        return counts.at[text[:, None], experts[None], place].add(1)

    counts = lax.map(one, jnp.moveaxis(own, 1, 0))
    return add_fields(BinnedStatistics, statistics, bin_count=jnp.moveaxis(counts, 0, 1))


def independent_load(
    weights: Float[Array, "resample text"],
    statistics: BinnedStatistics,
    top_k: int,
) -> Float[Array, "resample layer expert"]:
    """The load (1) of each layer under each weighting of the texts. Differentiable in the weights.

    Args:
        weights: one row per resample.
        statistics: with the counts of the logits.
        top_k: experts per token. Static.
    """

    def one(row):
        counts = sum_over_texts(row, statistics.bin_count)
        mass = counts / counts.sum(-1, keepdims=True)
        return jax.vmap(lambda layer: _load(layer, top_k))(mass)

    return lax.map(one, weights)


def _load(mass: Float[Array, "expert bin"], top_k: int) -> Float[Array, " expert"]:
    exceed = 1 - jnp.cumsum(mass, axis=-1)
    exceed = jnp.clip(exceed, 0, 1)
    chosen = _chosen_at_edges(exceed, top_k)
    # Below the first edge nothing is chosen to speak of: there all others exceed; the last is inf.
    lower = jnp.concatenate([jnp.zeros_like(chosen[:, :1]), chosen[:, :-1]], axis=-1)
    load = (mass * 0.5 * (lower + chosen)).sum(-1)
    return load / load.sum()


def _chosen_at_edges(
    exceed: Float[Array, "expert edge"], top_k: int
) -> Float[Array, "expert edge"]:
    """P(fewer than `top_k` of the other experts exceed the edge)."""

    def add(state, probability):
        shifted = jnp.concatenate([jnp.zeros_like(state[:1]), state[:-1]])
        return state * (1 - probability)[None] + shifted * probability[None], state

    none = jnp.zeros((top_k, exceed.shape[1]), exceed.dtype).at[0].set(1)
    _, before = lax.scan(add, none, exceed)
    _, after = lax.scan(add, none, exceed, reverse=True)
    at_most = jnp.cumsum(after, axis=1)[:, ::-1]
    return (before * at_most).sum(1)


def permutation_excess(
    trace: TokenTrace, *, documents: Sequence[int] | None = None, level: float = 0.95
) -> ExcessCongestion:
    """Excess over the permutation null, of every layer, with paired intervals. No random numbers.

    **Rule.** An excess is claimed where its interval does not hold 0 (`excludes_zero`). Without balancing, with
    independent experts, that is a false alarm in 2 to 5% of layers of 1,600 tokens and in 6 to 10% of
    layers of 4,000 (normal, heterogeneous and skewed noise, top-4 of 32, 200 samples each, so +- 2%;
    `python -m benchmarks.studies.excess_power --tokens 32` and `--tokens 80`).
    The size of an excess says little by itself: without balancing it is beyond 1 in up to three quarters
    of layers where the noise is skewed, with an interval that holds 0.

    What it detects and misses, measured (`python -m benchmarks.studies.excess_power`, 2,000 tokens): a tenth of
    the selection bias that evens the load shows in most samples; noise correlated 0.5 between
    experts is an excess of -6.5. Where tokens have a common shift as large as the noise, and the noise a skewness of 2,
    it is off by 1.0 to 2.6. Balancing that acts through each expert's own logits, as an auxiliary loss on the mean logits does, is no
    excess. A bias that evens the load completely leaves a load unrelated to quality: the congestion is
    then -M, and the excess negative.

    Args:
        trace: with every token's raw logits and choices.
        documents: document of each text, where documents were cut into texts: whole documents are
            then left out in turn.
        level: of the intervals, in (0, 1).

    Raises:
        ValueError: fewer than three texts (or documents).
    """
    metadata = trace.metadata
    group = jackknife_groups(metadata.text_count, documents=documents)
    sums = statistics_of(trace).statistics
    # Arrays of NumPy go in as they are: each `jnp.asarray` would be a program to compile.
    binned = with_bins(sums, trace.logits, trace.text, metadata.top_k)
    own, null = jax.device_get(permutation_pair(binned, leave_out_weights(group), metadata.top_k))
    return excess_of_pair("permutation", own, null, level, tuple(metadata.layers))


@partial(jax.jit, static_argnames="top_k")
def permutation_pair(
    statistics: BinnedStatistics, without: Float[Array, "group text"], top_k: int
) -> tuple[CorrectedFit, CorrectedFit]:
    """Corrected fits of the load and of its permutation null.

    Args:
        statistics: of one checkpoint, with the counts of its logits.
        without: weights with each group of texts left out, `leave_out_weights`.
        top_k: experts per token. Static.
    """
    own, null = fit_loads(
        statistics, without, lambda weights, sums: independent_load(weights, sums, top_k)
    )
    return own, null
