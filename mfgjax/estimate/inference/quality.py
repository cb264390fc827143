"""Expert quality from per-text statistics; one way in to every kind: `estimate_quality_and_load`."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.estimate.inference.token_quality import (
    TokenStatistics,
    estimate_median_quality,
    estimate_trimmed_quality,
)
from mfgjax.estimate.inference.weights import sum_over_texts
from mfgjax.trace.schema import TextStatistics

Quality = Literal["mean", "median", "trimmed", "split-half", "log-probability"]
QUALITIES: tuple[Quality, ...] = ("mean", "median", "trimmed", "split-half", "log-probability")
TOKEN_QUALITIES: tuple[Quality, ...] = ("median", "trimmed")
"""Those that per-text sums cannot give: they need a `TokenStatistics`."""


def estimate_mean_quality(
    weights: Float[Array, "*resample text"],
    token_count: Float[Array, " text"],
    logit_sum: Float[Array, "text layer expert"],
) -> Float[Array, "*resample layer expert"]:
    """Mean raw router logit over the tokens of the weighted texts (arXiv 2604.04230, section 6.1).

    Linear in the sums, so a resample is one row of a matrix product. Differentiable in all arrays.
    NaN where a resample holds no token.
    """
    total = sum_over_texts(weights, logit_sum)
    return total / sum_over_texts(weights, token_count)[..., None, None]


def estimate_dispersion(
    weights: Float[Array, "*resample text"],
    token_count: Float[Array, " text"],
    logit_sum: Float[Array, "text layer expert"],
    centred_square_sum: Float[Array, "text layer expert"],
) -> Float[Array, "*resample layer"]:
    """Token-level standard deviation of the logits of one expert, pooled over experts.

    The sigma of the dispersion null: root of the mean over experts of the variance over tokens, after
    each token's mean over experts is taken off, since top-k ignores it. Taking it off costs one of M
    degrees of freedom, which the factor M/(M-1) gives back (exact for independent experts).
    """
    tokens = sum_over_texts(weights, token_count)[..., None, None]
    mean = sum_over_texts(weights, logit_sum) / tokens
    mean = mean - mean.mean(-1, keepdims=True)
    square = sum_over_texts(weights, centred_square_sum) / tokens
    variance = jnp.maximum(square - mean**2, 0).sum(-1) / (mean.shape[-1] - 1)
    return jnp.sqrt(variance)


def estimate_log_probability_quality(
    weights: Float[Array, "*resample text"],
    token_count: Float[Array, " text"],
    probability_sum: Float[Array, "text layer expert"],
) -> Float[Array, "*resample layer expert"]:
    """Log of the mean softmax probability: what is left where only probabilities were kept.

    Not a location of the logits, and it shows: on OLMoE the L1 congestion it gives is 0.
    """
    mean = sum_over_texts(weights, probability_sum)
    return jnp.log(mean / sum_over_texts(weights, token_count)[..., None, None])


def split_halves(
    weights: Float[Array, "*resample text"],
) -> tuple[Float[Array, "*resample text"], Float[Array, "*resample text"]]:
    """Weights for quality (first half of the texts) and for load (the rest).

    Quality and load then share no token: noise common to both cannot pass for congestion.
    """
    texts = weights.shape[-1]
    first = (jnp.arange(texts) < texts // 2).astype(weights.dtype)
    first = jnp.broadcast_to(first, weights.shape)
    return weights * first, weights * (1 - first)


def estimate_load(
    weights: Float[Array, "*resample text"],
    dispatch_count: Float[Array, "text layer expert"],
) -> Float[Array, "*resample layer expert"]:
    """Dispatch fraction of each expert, normalised to sum 1 (counts divided by tokens and top_k).

    Without the division by top_k the congestion would come out top_k times too small, and could not
    be compared with `aux_loss_coef * experts`. NaN where a resample holds no dispatch.
    """
    total = sum_over_texts(weights, dispatch_count)
    return total / total.sum(-1, keepdims=True)


def estimate_quality_and_load(
    statistics: TextStatistics,
    weights: Float[Array, "resample text"],
    quality: Quality = "mean",
) -> tuple[Float[Array, "resample layer expert"], Float[Array, "resample layer expert"]]:
    """Quality and load of every layer under each weighting of the texts.

    Args:
        statistics: per-text sums of one checkpoint; for `"median"` and `"trimmed"` with its tokens
            (`TokenStatistics`).
        weights: one row per resample.
        quality: static. `"mean"` raw logit, `"median"`, `"trimmed"` (a tenth off either end),
            `"split-half"` (mean logit over the first half of the texts, load from the other half),
            `"log-probability"` (log of the mean softmax probability). The first four are locations
            of the logit, the last is not. All of arXiv 2604.04230, section 6.1, but the last.

    Raises:
        ValueError: an unknown quality, or one that needs tokens without them.
    """
    check_quality(quality)
    for_load = weights
    if quality in TOKEN_QUALITIES:
        if not isinstance(statistics, TokenStatistics):
            raise ValueError(
                f"quality {quality!r} needs every token's logits and per-text sums hold none: pass "
                "TokenStatistics (with_tokens), or choose mean, split-half or log-probability"
            )
        estimate = estimate_median_quality if quality == "median" else estimate_trimmed_quality
        found = estimate(weights, statistics.sorted_tokens)
    elif quality == "log-probability":
        found = estimate_log_probability_quality(
            weights, statistics.token_count, statistics.probability_sum
        )
    else:
        for_quality = weights
        if quality == "split-half":
            for_quality, for_load = split_halves(weights)
        found = estimate_mean_quality(for_quality, statistics.token_count, statistics.logit_sum)
    load = estimate_load(for_load, statistics.dispatch_count)
    return found, load.astype(jnp.result_type(found, load))


def check_quality(quality: str) -> None:
    """Raise `ValueError` unless `quality` is one of `QUALITIES`."""
    if quality not in QUALITIES:
        raise ValueError(f"quality {quality!r} is not one of {', '.join(QUALITIES)}")
