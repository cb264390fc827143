"""Median and trimmed mean of token logits under resampling, without copies of the tokens.

A resample of texts gives every token the weight of its text. Tokens are sorted once per layer and
expert; the cumulative weight along that order then holds every weighted quantile of a resample.
Experts are taken one after the other, so the peak is resamples x tokens for one expert.
"""

from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from mfgjax.trace.schema import TextStatistics

Extended = TypeVar("Extended", bound=TextStatistics)


class SortedTokens(eqx.Module):
    """Token logits in increasing order, per layer and expert, and the text each one is of."""

    logits: Float[Array, "layer expert token"]
    text: Int[Array, "layer expert token"]


class TokenStatistics(TextStatistics):
    """Per-text sums of one checkpoint with its sorted tokens: fits wherever the sums do."""

    sorted_tokens: SortedTokens


def with_tokens(
    statistics: TextStatistics,
    logits: Float[Array | np.ndarray, "token layer expert"],
    text: Int[Array | np.ndarray, " token"],
) -> TokenStatistics:
    """Add the tokens that `statistics` are of, sorted, in the floating type of the sums."""
    sorted_tokens = sort_tokens(logits, text, statistics.logit_sum.dtype)
    return add_fields(TokenStatistics, statistics, sorted_tokens=sorted_tokens)


def add_fields(kind: type[Extended], statistics: TextStatistics, **extra: Any) -> Extended:
    """The same sums in a subclass of `TextStatistics` that carries more."""
    sums = {name: getattr(statistics, name) for name in TextStatistics.__dataclass_fields__}
    return kind(**sums, **extra)


@partial(jax.jit, static_argnames="dtype")
def sort_tokens(
    logits: Float[Array | np.ndarray, "token layer expert"],
    text: Int[Array | np.ndarray, " token"],
    dtype: DTypeLike,
) -> SortedTokens:
    """Sort once, in `dtype`; every resample and every quantile reads the result."""
    logits = logits.astype(dtype)
    order = jnp.argsort(logits, axis=0)
    values = jnp.take_along_axis(logits, order, axis=0)
    return SortedTokens(logits=jnp.moveaxis(values, 0, -1), text=jnp.moveaxis(text[order], 0, -1))


def estimate_median_quality(
    weights: Float[Array, "resample text"], tokens: SortedTokens
) -> Float[Array, "resample layer expert"]:
    """Weighted median logit: the mean of the lower and upper median, as `numpy.median`."""

    def one(logits, weight):
        reached = jnp.cumsum(weight)
        half = reached[-1] / 2
        # With integer weights the comparison is exact up to 2^24 tokens in float32.
        low = logits[jnp.argmax(reached >= half)]
        high = logits[jnp.argmax(reached > half)]
        return (low + high) / 2

    return _over_experts(one, weights, tokens)


def estimate_trimmed_quality(
    weights: Float[Array, "resample text"], tokens: SortedTokens, trim: float = 0.1
) -> Float[Array, "resample layer expert"]:
    """Weighted mean logit without the lowest and highest `trim` of the weight.

    A token on the edge counts with the part of its weight that is inside, so the estimate is
    continuous in the weights.
    """

    def one(logits, weight):
        reached = jnp.cumsum(weight)
        total = reached[-1]
        inside = jnp.clip(reached, trim * total, (1 - trim) * total)
        start = jnp.clip(reached - weight, trim * total, (1 - trim) * total)
        return (logits * (inside - start)).sum() / ((1 - 2 * trim) * total)

    return _over_experts(one, weights, tokens)


def _over_experts(one, weights, tokens):
    layers, experts, count = tokens.logits.shape
    flat = (tokens.logits.reshape(-1, count), tokens.text.reshape(-1, count))

    def expert(pair):
        logits, text = pair
        return jax.vmap(lambda row: one(logits, row[text]))(weights)

    out = lax.map(expert, flat)
    return out.reshape(layers, experts, -1).transpose(2, 0, 1)
