"""Expert quality from per-text statistics."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.estimate.inference.weights import sum_over_texts


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
