"""Expert load from per-text dispatch counts."""

from jaxtyping import Array, Float

from mfgjax.estimate.resample import sum_over_texts


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
