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
    logit_square_sum: Float[Array, "text layer expert"],
) -> Float[Array, "*resample layer"]:
    """Token-level standard deviation of the logits of one expert, pooled over experts.

    The sigma of the dispersion null: root of the mean over experts of the variance over tokens.
    A shift common to all experts of a token cannot change top-K, yet counts here: per-text sums
    cannot separate it. From token logits, subtract each token's mean logit first.
    """
    tokens = (weights @ token_count)[..., None, None]
    mean = jnp.tensordot(weights, logit_sum, axes=1) / tokens
    square = jnp.tensordot(weights, logit_square_sum, axes=1) / tokens
    return jnp.sqrt(jnp.maximum(square - mean**2, 0).mean(-1))
