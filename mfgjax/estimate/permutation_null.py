"""The permutation null: the congestion of a router that keeps every expert's own logits only.

Each expert's residuals `z - q` are shuffled over tokens independently of the other experts, top-K is
taken again, and the load is refitted. What each expert's logits do by themselves is kept exactly
(variance, skewness, tails, per expert); everything that experts do together on a token, and any
selection bias, is gone. Where the closed form `null_congestion` assumes equal Gaussian noise, this
does not.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


@partial(jax.jit, static_argnames="top_k")
def permuted_load(
    key: PRNGKeyArray,
    logits: Float[Array, "token layer expert"],
    top_k: int,
    weight: Float[Array, " token"] | None = None,
) -> Float[Array, "layer expert"]:
    """Load of the same logits after an independent shuffle of tokens per layer and expert.

    Args:
        key: of the shuffle.
        logits: raw router logits. A shift common to the experts of a token, which cannot change
            its choice, is taken off first: left in, the shuffle would turn it into dispersion.
        top_k: experts per token. Static.
        weight: how often each token counts, for a bootstrap over texts: tokens are drawn in
            proportion, with replacement, instead of permuted.
    """
    tokens, _, experts = logits.shape
    centred = logits - logits.mean(-1, keepdims=True)
    if weight is None:
        shuffled = jax.random.permutation(key, centred, axis=0, independent=True)
    else:
        # Inverse transform: the token whose cumulative weight passes a uniform draw.
        reached = jnp.cumsum(weight)
        draw = jax.random.uniform(key, logits.shape, logits.dtype) * reached[-1]
        place = jnp.minimum(jnp.searchsorted(reached, draw, side="right"), tokens - 1)
        shuffled = jnp.take_along_axis(centred, place, axis=0)
    _, chosen = jax.lax.top_k(shuffled, top_k)
    counts = jax.nn.one_hot(chosen, experts, dtype=logits.dtype).sum((0, 2))
    return counts / (tokens * top_k)
