"""Texts from a top-K router whose load is an exact equilibrium at a known congestion.

The load mu of an equilibrium at congestion gamma and temperature 1 determines the quality up to a
constant, `q_i = log mu_i + gamma mu_i` (equation 2.4 of arXiv 2604.04230), so the truth is exact:
no solver is involved. Each text t has its own dispatch probabilities, Dirichlet with mean mu, and
each of its tokens picks K different experts with inclusion probabilities K times those (systematic
sampling). Its mean logits are q plus a text effect plus token noise.
"""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mfgjax.trace.schema import TextStatistics


class RouterTruth(eqx.Module):
    """What the texts are drawn from: `load` is the equilibrium of `quality` at `congestion`."""

    quality: Float[Array, "layer expert"]
    load: Float[Array, "layer expert"]
    congestion: Float[Array, " layer"]


def draw_truth(
    key: PRNGKeyArray,
    congestion: Float[Array, " layer"],
    experts: int,
    load_spread: float = 0.2,
) -> RouterTruth:
    """Equilibria with log-normal loads.

    Args:
        key: random key.
        congestion: known congestion of each layer.
        experts: M. Static.
        load_spread: standard deviation of log load (OLMoE: 0.2 to 0.4).
    """
    logits = load_spread * jax.random.normal(key, (congestion.shape[0], experts), congestion.dtype)
    load = jax.nn.softmax(logits, axis=-1)
    quality = jnp.log(load) + congestion[:, None] * load
    quality = quality - quality.mean(-1, keepdims=True)
    return RouterTruth(quality=quality, load=load, congestion=congestion)


@partial(jax.jit, static_argnames=("texts", "tokens", "top_k"))
def simulate_texts(
    key: PRNGKeyArray,
    truth: RouterTruth,
    *,
    texts: int = 50,
    tokens: int = 20,
    top_k: int = 8,
    quality_noise: float = 0.0,
    dispersion: float = 1.0,
    concentration: float = 200.0,
    lengths: Int[Array, " text"] | None = None,
) -> TextStatistics:
    """Per-text statistics of one sample.

    Args:
        key: random key.
        truth: what to draw from.
        texts: number of texts. Static.
        tokens: tokens in each text. Static.
        top_k: experts per token, K. Static.
        quality_noise: sigma_q, standard deviation of the mean quality over all texts, from text
            effects of `sigma_q sqrt(texts)` each.
        dispersion: standard deviation of token logits around the text's.
        concentration: of the Dirichlet around the load; small is more unlike texts. Dispatch
            probabilities above 1/K are cut, which moves the truth: keep `K load` well below 1.
        lengths: tokens of each text, at least 1, at most as many as there are, where texts differ in length. Traced.
    """
    layers, experts = truth.load.shape
    dtype = truth.load.dtype
    keys = jax.random.split(key, 4)
    alpha = jnp.broadcast_to(concentration * truth.load, (texts, layers, experts))
    share = jax.random.gamma(keys[0], alpha, dtype=dtype)
    share = share / share.sum(-1, keepdims=True)
    effect = _flat(jax.random.normal, keys[1], (texts, layers, experts), dtype)
    noise = _flat(jax.random.normal, keys[2], (texts, layers, experts), dtype)
    length = jnp.full(texts, tokens, dtype) if lengths is None else lengths.astype(dtype)
    each = length[:, None, None]
    spread = effect * (quality_noise * texts**0.5) + noise * (dispersion / each**0.5)
    mean = truth.quality[None] + spread

    # The last edge is K exactly: a rounded sum would lose the mark of one token in a million.
    edges = (top_k * jnp.cumsum(share, axis=-1)).at[..., -1].set(top_k)
    first = _flat(jax.random.uniform, keys[3], (tokens, texts, layers), dtype)

    def dispatch(counts, token):
        index, offset = token
        # Marks at offset, offset + 1, ...: expert i is picked when a mark falls in its stretch.
        passed = jnp.ceil(edges - offset[..., None])
        picked = jnp.diff(passed, axis=-1, prepend=jnp.zeros_like(passed[..., :1]))
        there = (index < length)[:, None, None]
        return counts + jnp.where(there, jnp.clip(picked, 0, 1), 0), None

    order = jnp.arange(tokens, dtype=dtype)
    counts, _ = jax.lax.scan(dispatch, jnp.zeros_like(share), (order, first))
    # Centring a token takes 1/M of the variance of independent logits.
    within = dispersion**2 * (1 - 1 / experts)
    square = each * (within + (mean - mean.mean(-1, keepdims=True)) ** 2)
    return TextStatistics(
        token_count=length,
        logit_sum=mean * each,
        centred_square_sum=square,
        dispatch_count=counts,
        probability_sum=each * jax.nn.softmax(mean, axis=-1),
    )


def _flat(draw, key, shape, dtype):
    """The same numbers as `draw(key, shape, dtype)`: LLVM unrolls the generator over short last axes."""
    return draw(key, (math.prod(shape),), dtype).reshape(shape)
