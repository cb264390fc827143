"""Expert quality from per-text statistics."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def estimate_mean_quality(
    weights: Float[Array, "*resample text"],
    token_count: Float[Array, " text"],
    logit_sum: Float[Array, "text layer expert"],
) -> Float[Array, "*resample layer expert"]:
    """Mean raw router logit over the tokens of the weighted texts (arXiv 2604.04230, section 6.1).

    Linear in the sums, so a resample is one row of a matrix product. Differentiable in all arrays.
    NaN where a resample holds no token.
    """
    total = jnp.tensordot(weights, logit_sum, axes=1)
    return total / (weights @ token_count)[..., None, None]


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
    tokens = (weights @ token_count)[..., None, None]
    mean = jnp.tensordot(weights, logit_sum, axes=1) / tokens
    mean = mean - mean.mean(-1, keepdims=True)
    square = jnp.tensordot(weights, centred_square_sum, axes=1) / tokens
    variance = jnp.maximum(square - mean**2, 0).sum(-1) / (mean.shape[-1] - 1)
    return jnp.sqrt(variance)
