"""Prices solved rather than followed: quantile balancing, BIP and Sinkhorn, on one batch of scores.

Quantile balancing and BIP alternate exact minimisation of the dual over tokens and over experts; Sinkhorn does
the same with an entropy, whose minimisers are log-sum-exps in place of quantiles.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mfgjax.lab.rule import Context, Rule, Selection, State, biased, choose, zero_bias
from mfgjax.lab.rules.plain import select_top_k

BIP_PASSES = 4
SINKHORN_PASSES = 20


def kth_largest(values: Float[Array, "token expert"], k: int) -> Float[Array, " expert"]:
    """The k-th largest of each column (k from 1), exactly, by bisection on the bits of float32.

    A sort costs ten times as much on CPU. Not differentiable.
    """
    flip = jnp.int32(2**31 - 1)

    def in_order(bits):  # of floats as integers, in order of value; its own inverse
        return jnp.where(bits >= 0, bits, bits ^ flip)

    order = in_order(lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32))

    def reached(level):
        return (order >= level[None]).sum(0, dtype=jnp.int32) >= k

    def halve(_, bounds):  # low is reached, high is not
        low, high = bounds
        middle = (low & high) + ((low ^ high) >> 1)  # the mean of two int32, without overflow
        up = reached(middle)
        return jnp.where(up, middle, low), jnp.where(up, high, middle)

    low, _ = lax.fori_loop(0, 32, halve, (order.min(0), order.max(0) + 1))
    return lax.bitcast_convert_type(in_order(low), jnp.float32)


def quantile_pass(scores: Array, bias: Array, top_k: int) -> Array:
    """One pass: each token's threshold is its (K+1)-th largest score, each expert's price a quantile.

    With c = T K / M places, `bias_j = -((c+1)-th largest over tokens of score_j - threshold)`: exactly c
    tokens are then above their threshold.
    """
    tokens, experts = scores.shape
    threshold = lax.top_k(scores + bias[None], top_k + 1)[0][:, -1:]
    return -kth_largest(scores - threshold, tokens * top_k // experts + 1)


def update_quantile(state: State, counts: Array, logits: Array, context: Context) -> State:
    """The price of the next step from this step's logits; centred, which moves no choice."""
    bias = quantile_pass(logits, state["bias"], context.top_k)
    return state | {"bias": bias - bias.mean()}


def bip_price(scores: Array, price: Array, top_k: int, passes: int = BIP_PASSES) -> Array:
    """Dual prices, at least 0, of at most K experts per token and T K / M tokens per expert."""
    tokens, experts = scores.shape

    def solve(_, price):
        token = lax.top_k(scores - price[None], top_k + 1)[0][:, -1:]
        best = kth_largest(scores - jnp.maximum(token, 0), tokens * top_k // experts + 1)
        return jnp.maximum(best, 0)

    return lax.fori_loop(0, passes, solve, price)


def select_bip(logits: Array, state: State, context: Context) -> Selection:
    """The top-K of softmax scores less the price that this batch's own scores lead to."""
    scores = lax.stop_gradient(jax.nn.softmax(logits, axis=-1))
    price = -state["bias"]
    if context.training:
        price = bip_price(scores, price, context.top_k)
    return choose(logits, scores - price[None], context.top_k)


def update_bip(state: State, counts: Array, logits: Array, context: Context) -> State:
    """Keep the price for the next batch's first pass, and for evaluation."""
    scores = jax.nn.softmax(logits, axis=-1)
    return state | {"bias": -bip_price(scores, -state["bias"], context.top_k)}


def sinkhorn_price(logits: Array, passes: int = SINKHORN_PASSES) -> Float[Array, " expert"]:
    """Log of the column scale that makes `exp(logits)` doubly balanced."""
    tokens, experts = logits.shape
    log = jax.nn.log_softmax(logits, axis=-1)

    def scale(_, column):
        row = -jax.nn.logsumexp(log + column[None], axis=1) - jnp.log(jnp.float32(tokens))
        return -jax.nn.logsumexp(log + row[:, None], axis=0) - jnp.log(jnp.float32(experts))

    return lax.fori_loop(0, passes, scale, jnp.zeros(experts, logits.dtype))


def select_sinkhorn(logits: Array, state: State, context: Context) -> Selection:
    """The top-K of the balanced plan; evaluated, the top-K of the logits, as Megatron-LM does."""
    if not context.training:
        return select_top_k(logits, state, context)
    column = sinkhorn_price(lax.stop_gradient(logits))
    return choose(logits, logits + column[None], context.top_k)


QUANTILE = biased(
    update_quantile,
    "quantile balancing, one pass a step, used in the next (as in marin and Megatron-LM)",
)
BIP = Rule(
    select_bip,
    update_bip,
    start=zero_bias,
    score="softmax",
    about="dual prices solved within the batch on softmax scores (BIP, arXiv 2502.15451; 4 passes)",
)
SINKHORN = Rule(
    select_sinkhorn,
    score="logits",
    about="Sinkhorn plan in training, top-K in evaluation (S-BASE, arXiv 2202.01169; as in Megatron-LM)",
)
