"""No balancing, and the two negative controls: random and hashed choices, which no router logit moves."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from mfgjax.lab.rule import Context, Rule, Selection, State, choose

_MULTIPLIERS = (2654435761, 2246822519, 3266489917)
"""Odd constants of multiplicative hashing."""


def select_top_k(logits: Array, state: State, context: Context) -> Selection:
    """The top-K of the logits."""
    return choose(logits, logits, context.top_k)


def select_random(logits: Array, state: State, context: Context) -> Selection:
    """K experts drawn without regard to the token, with equal weights."""
    draw = jax.random.uniform(context.key, logits.shape, jnp.float32)
    choices = lax.top_k(draw, context.top_k)[1].astype(jnp.int32)
    return Selection(choices, jnp.full(choices.shape, 1 / context.top_k, jnp.float32))


def select_hash(logits: Array, state: State, context: Context) -> Selection:
    """A fixed hash of the last three bytes, one expert of each of K equal groups, with equal weights."""
    group = logits.shape[1] // context.top_k
    recent = context.recent.astype(jnp.uint32)
    mixed = jnp.zeros(len(recent), jnp.uint32)
    for place, multiplier in enumerate(_MULTIPLIERS):
        mixed = (mixed ^ recent[:, place]) * jnp.uint32(multiplier)
        mixed = mixed ^ (mixed >> 15)
    columns = []
    for number in range(context.top_k):
        again = (mixed + jnp.uint32(number)) * jnp.uint32(_MULTIPLIERS[0])
        own = (again >> 16) % jnp.uint32(group)
        columns.append(own.astype(jnp.int32) + number * group)
    choices = jnp.stack(columns, axis=-1)
    return Selection(choices, jnp.full(choices.shape, 1 / context.top_k, jnp.float32))


NONE = Rule(select_top_k, score="logits", about="no balancing: the top-K of the logits")
RANDOM = Rule(
    select_random, about="K experts at random, equal weights: nothing is learnt of a choice"
)
HASH = Rule(
    select_hash,
    about="a fixed hash of the last three bytes (Roller et al. 2021, arXiv 2106.04426, hash single tokens)",
)
