"""A top-K router without any game: Gaussian token logits, with or without balancing on top.

`z = quality + sigma_i eps`, where eps is standard normal, correlated by `correlation` between experts.
Three routers: nothing else; a selection bias that evens the load (the sign rule of DeepSeek-V3,
arXiv 2412.19437: experts below the mean load gain a step); qualities trained against the Switch
loss `alpha M sum f P` (arXiv 2101.03961) while a spring pulls them to where they were.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray


def draw_logits(
    key: PRNGKeyArray,
    quality: Float[Array, " expert"],
    dispersion: float | Float[Array, " expert"],
    tokens: int,
    correlation: float = 0.0,
) -> Float[Array, "token expert"]:
    """Token logits; `dispersion` may differ between experts."""
    own, common = jax.random.split(key)
    shape = (tokens, quality.shape[0])
    noise = jax.random.normal(own, shape, quality.dtype) * (1 - correlation) ** 0.5
    # One factor with random signs: a factor with equal loadings would be a common shift.
    signs = jnp.where(jnp.arange(shape[1]) % 2 == 0, 1, -1).astype(quality.dtype)
    factor = jax.random.normal(common, (tokens, 1), quality.dtype) * signs[None]
    noise = noise + factor * correlation**0.5
    spread = jnp.broadcast_to(jnp.asarray(dispersion, quality.dtype), quality.shape)
    return quality[None] + spread[None] * noise


def choose_experts(
    logits: Float[Array, "token expert"],
    top_k: int,
    selection_bias: Float[Array, " expert"] | None = None,
) -> Int[Array, "token top_k"]:
    """The top_k experts of each token, by logits plus bias."""
    score = logits if selection_bias is None else logits + selection_bias[None]
    return lax.top_k(score, top_k)[1].astype(jnp.int32)


def balance_by_bias(
    logits: Float[Array, "token expert"], top_k: int, *, steps: int = 200, rate: float = 0.05
) -> Float[Array, " expert"]:
    """Selection bias after `steps` updates by the sign of the load violation, rate decaying."""
    experts = logits.shape[-1]

    def step(bias, index):
        load = _load(choose_experts(logits, top_k, bias), experts, logits.dtype)
        decay = rate * (1 - index / steps)
        return bias + decay.astype(bias.dtype) * jnp.sign(1 / experts - load), None

    start = jnp.zeros(experts, logits.dtype)
    return lax.scan(step, start, jnp.arange(steps, dtype=logits.dtype))[0]


def balance_by_loss(
    key: PRNGKeyArray,
    quality: Float[Array, " expert"],
    dispersion: float,
    top_k: int,
    aux_loss_coef: float,
    *,
    tokens: int = 4096,
    steps: int = 200,
    rate: float = 0.5,
) -> Float[Array, " expert"]:
    """Quality after descent on `|q - quality|^2 / 2 + alpha M sum_i f_i P_i`."""
    experts = quality.shape[0]

    def step(current, index):
        logits = draw_logits(jax.random.fold_in(key, index), current, dispersion, tokens)
        load = _load(choose_experts(logits, top_k), experts, logits.dtype)

        def loss(q):
            probability = jax.nn.softmax(logits - current[None] + q[None], axis=-1).mean(0)
            return aux_loss_coef * experts * (load * probability).sum()

        return current - rate * (current - quality + jax.grad(loss)(current)), None

    return lax.scan(step, quality, jnp.arange(steps))[0]


def _load(choices, experts, dtype):
    counts = jax.nn.one_hot(choices, experts, dtype=dtype).sum((0, 1))
    return counts / counts.sum()
