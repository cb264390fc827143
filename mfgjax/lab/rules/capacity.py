"""Top-K with places: what comes after an expert is full is dropped."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mfgjax.lab.rule import Context, Rule, Selection, State, choose
from mfgjax.lab.rules.auxiliary import balance_loss


def select_within_capacity(logits: Array, state: State, context: Context) -> Selection:
    """First choices are placed before second ones, each in the order of tokens (GShard, arXiv 2006.16668)."""
    tokens, experts = logits.shape
    choices, weights = choose(logits, logits, context.top_k)
    hot = jax.nn.one_hot(choices.T.reshape(-1), experts, dtype=jnp.int32)
    before = (jnp.cumsum(hot, axis=0, dtype=jnp.int32) * hot).sum(1, dtype=jnp.int32) - 1
    places = state["capacity_factor"] * (tokens * context.top_k / experts)
    fits = jnp.ceil(places) > before.reshape(context.top_k, tokens).T.astype(jnp.float32)
    return Selection(choices, jnp.where(fits, weights, 0))


CAPACITY = Rule(
    select_within_capacity,
    loss=partial(balance_loss, pooled=False, per_micro_batch=False),
    settings={"alpha": 0.01, "capacity_factor": 1.0},
    score="logits",
    about="Switch loss, and choices beyond the capacity dropped (arXiv 2101.03961; factor 1)",
)
