"""From tokens to per-text sums, the only thing every estimate and bootstrap reads."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mfgjax.trace.choice_bound import choice_bounds_of
from mfgjax.trace.schema import StatisticsTrace, TextStatistics, TokenTrace


@partial(jax.jit, static_argnames="text_count")
def per_text_statistics(
    logits: Float[Array, "token layer expert"],
    choices: Int[Array, "token layer top_k"],
    text: Int[Array, " token"],
    text_count: int,
) -> TextStatistics:
    """Sum logits, squares of centred logits, probabilities and choices over each text.

    Sums are taken in float32, or float64 if `logits` is. Tokens may come in any order and in
    batches: the statistics of batches add up (`jax.tree.map(jnp.add, a, b)`).

    Args:
        logits: raw router logits.
        choices: experts really used.
        text: index of each token's text.
        text_count: static number of texts; texts without tokens get zeros.
    """
    dtype = logits.dtype if logits.dtype == jnp.float64 else jnp.float32
    logits = logits.astype(dtype)
    experts = logits.shape[-1]
    dispatch = jax.nn.one_hot(choices.astype(jnp.int32), experts, dtype=dtype).sum(-2)

    def total(values):
        return jax.ops.segment_sum(values, text, text_count)

    return TextStatistics(
        token_count=total(jnp.ones(text.shape, dtype)),
        logit_sum=total(logits),
        centred_square_sum=total(jnp.square(logits - logits.mean(-1, keepdims=True))),
        dispatch_count=total(dispatch),
        probability_sum=total(jax.nn.softmax(logits, axis=-1)),
    )


def statistics_of(
    trace: TokenTrace | StatisticsTrace, *, choice_blocks: int = 0
) -> StatisticsTrace:
    """The statistics form of a trace; one that has it already is returned as it is.

    Args:
        trace: either form.
        choice_blocks: blocks of texts to keep `choice_bound` for, 0 for none.
    """
    if isinstance(trace, StatisticsTrace):
        return trace
    statistics = per_text_statistics(
        jnp.asarray(trace.logits),
        jnp.asarray(trace.choices.astype(np.int32)),
        jnp.asarray(trace.text),
        trace.metadata.text_count,
    )
    metadata = dataclasses.replace(trace.metadata, kind="statistics")
    return StatisticsTrace(
        metadata,
        statistics,
        trace.selection_bias,
        _dispatched_count(trace),
        choice_bounds_of(trace, choice_blocks) if choice_blocks else None,
    )


def _dispatched_count(trace: TokenTrace) -> np.ndarray | None:
    """Choices within capacity, per text, layer and expert; None where the router has no capacity."""
    if trace.dispatched is None:
        return None
    layers = trace.choices.shape[1]
    count = np.zeros((trace.metadata.text_count, layers, trace.metadata.experts), np.int32)
    where = np.broadcast_arrays(
        trace.text[:, None, None], np.arange(layers)[:, None], trace.choices.astype(np.int64)
    )
    np.add.at(count, tuple(where), trace.dispatched.astype(np.int32))
    return count
