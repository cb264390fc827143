"""Experts choose tokens: by rank within the batch, which looks ahead, or by a threshold, which does not."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mfgjax.lab.rule import Context, Rule, Selection, State
from mfgjax.lab.rules.dual import kth_largest


def _above(gates: Array, threshold: Array) -> Selection:
    experts = jnp.broadcast_to(jnp.arange(gates.shape[1], dtype=jnp.int32), gates.shape)
    chosen = gates >= threshold[None]
    return Selection(jnp.where(chosen, experts, -1), jnp.where(chosen, gates, 0))


def _last_taken(gates: Array, top_k: int) -> Array:
    """The gate of the last token that each expert has a place for."""
    tokens, experts = gates.shape
    return kth_largest(jax.lax.stop_gradient(gates), tokens * top_k // experts)


def select_batch(logits: Array, state: State, context: Context) -> Selection:
    """Each expert takes the T K / M tokens with the largest gates of the batch, later ones included."""
    gates = jax.nn.softmax(logits, axis=-1)
    return _above(gates, _last_taken(gates, context.top_k))


def select_threshold(logits: Array, state: State, context: Context) -> Selection:
    """Each expert takes the tokens whose gate is above its running threshold: causal."""
    return _above(jax.nn.softmax(logits, axis=-1), state["threshold"])


def follow_threshold(state: State, counts: Array, logits: Array, context: Context) -> State:
    """Running mean of the gate of the last token that had a place; a plain mean at first."""
    last = _last_taken(jax.nn.softmax(logits, axis=-1), context.top_k)
    rate = jnp.maximum(state["rate"], 1 / (state["steps"] + 1))
    threshold = state["threshold"] + rate * (last - state["threshold"])
    return state | {"threshold": threshold, "steps": state["steps"] + 1}


def _start(experts: int, settings: State) -> State:
    zero = jnp.zeros(experts, jnp.float32)
    return settings | {"threshold": zero, "steps": jnp.zeros((), jnp.float32)}


EXPERT_CHOICE = Rule(
    select_batch,
    follow_threshold,
    start=_start,
    settings={"rate": 0.05},
    any_number=True,
    about="expert choice over the batch (arXiv 2202.09368): sees later tokens",
)
EXPERT_THRESHOLD = Rule(
    select_threshold,
    follow_threshold,
    start=_start,
    settings={"rate": 0.05},
    any_number=True,
    about="expert choice by running quantile, causal (expert threshold, arXiv 2603.11535; the rate is ours)",
)
