"""Every expert's own logits: what the permutation null keeps, and a shuffle of them.

Each expert's logits are shuffled over tokens independently of the other experts, top-K is taken again,
and the load is refitted. What each expert's logits do by themselves is kept (variance, skewness, tails,
per expert); everything that experts do together on a token, and any selection bias, is gone. Where the
closed form `null_congestion` assumes equal Gaussian noise, this does not.

**What an expert's own logits are.** A shift that all logits of a token share changes no choice, and a
shuffle would turn it into dispersion; taking off the token's mean takes some of each expert's own
noise along, which no choice warrants either. With independent noise of variances `s_i^2` and a shift of
variance C, `z_i = c + q_i + e_i`, the mean covariance between experts is C, and the best linear predictor
of the shift is `b (mean z - its mean over tokens)` with

    b = max(C, 0) / Var(mean z).                                                           (1)

That much is taken off: nothing where the experts are independent, the whole mean where a shift
dominates. The centred logits have variances `v_i`, sum V, whatever the shift, and determine

    s_i^2 = (M v_i - V / (M-1)) / (M-2)                                                    (2)

(both derived; the variance of `z_i - z_j` is what a choice sees). Each expert's logits are scaled about
their mean to (2).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


@jax.jit
def own_logits(logits: Float[Array, "token layer expert"]) -> Float[Array, "token layer expert"]:
    """Logits as independent experts would have them: without shift (1), with variances (2).

    Any shift of a token, and logits that were centred before, give the same variances. Where a shift
    dominates and the noise is skewed, the noise keeps its variance and loses some of its skewness.

    Args:
        logits: raw router logits.
    """
    experts = logits.shape[-1]
    average = logits.mean(-1, keepdims=True)
    moving = average - average.mean(0, keepdims=True)
    variance, of_average = logits.var(0, keepdims=True), (moving**2).mean(0, keepdims=True)
    covariance = experts**2 * of_average - variance.sum(-1, keepdims=True)
    covariance = covariance / (experts * (experts - 1))
    shifted = jnp.maximum(covariance, 0) / jnp.where(of_average > 0, of_average, 1)
    left = logits - shifted * moving

    centred = (logits - average).var(0, keepdims=True)
    total = centred.sum(-1, keepdims=True)
    if experts == 2:  # only the sum of the two is known
        own = total
    else:
        own = jnp.maximum(experts * centred - total / (experts - 1), 0) / (experts - 2)
    now = left.var(0, keepdims=True)
    mean = left.mean(0, keepdims=True)
    return mean + (left - mean) * jnp.sqrt(own / jnp.where(now > 0, now, 1))


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
        logits: raw router logits; `own_logits` of them are shuffled.
        top_k: experts per token. Static.
        weight: how often each token counts, for a bootstrap over texts: tokens are drawn in
            proportion, with replacement, instead of permuted.
    """
    tokens, _, experts = logits.shape
    logits = own_logits(logits)
    if weight is None:
        shuffled = jax.random.permutation(key, logits, axis=0, independent=True)
    else:
        # Inverse transform: the token whose cumulative weight passes a uniform draw.
        reached = jnp.cumsum(weight)
        draw = jax.random.uniform(key, logits.shape, logits.dtype) * reached[-1]
        place = jnp.minimum(jnp.searchsorted(reached, draw, side="right"), tokens - 1)
        shuffled = jnp.take_along_axis(logits, place, axis=0)
    _, chosen = jax.lax.top_k(shuffled, top_k)
    counts = jax.nn.one_hot(chosen, experts, dtype=logits.dtype).sum((0, 2))
    return counts / (tokens * top_k)
