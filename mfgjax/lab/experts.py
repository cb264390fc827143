"""Run each token through the experts that it chose.

`dense` computes every expert for every token: two matrix products, exact, and the fastest way while M/K is
small. `padded` gathers tokens into [expert, capacity] and takes one batched product; what does not fit is
not computed, and counted. Both are differentiable. `jax.lax.ragged_dot` is not used: on CPU, and on CUDA by
default, jax 0.10 expands it to every expert for every token, at the cost of `dense` without its simplicity.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

DENSE_UP_TO = 4
"""Experts per chosen expert, M/K, up to which `dense` is used."""


class Weights(NamedTuple):
    """SwiGLU experts: `(silu(x gate) * (x up)) down`."""

    gate: Float[Array, "expert width hidden"]
    up: Float[Array, "expert width hidden"]
    down: Float[Array, "expert hidden width"]


def run_dense(
    tokens: Float[Array, "token width"],
    choices: Int[Array, "token choice"],
    weights: Float[Array, "token choice"],
    experts: Weights,
) -> Float[Array, "token width"]:
    """Sum of the chosen experts' outputs times their weights; a choice of -1 adds nothing."""
    count, width, hidden = experts.gate.shape
    share = (jax.nn.one_hot(choices, count, dtype=weights.dtype) * weights[..., None]).sum(1)

    def spread(matrix):  # [expert, width, hidden] -> [width, expert x hidden]
        return matrix.transpose(1, 0, 2).reshape(width, count * hidden)

    inner = jax.nn.silu(tokens @ spread(experts.gate)) * (tokens @ spread(experts.up))
    inner = inner.reshape(-1, count, hidden) * share[..., None]
    return inner.reshape(-1, count * hidden) @ experts.down.reshape(count * hidden, width)


def run_padded(
    tokens: Float[Array, "token width"],
    choices: Int[Array, "token choice"],
    weights: Float[Array, "token choice"],
    experts: Weights,
    capacity: int,
) -> tuple[Float[Array, "token width"], Int[Array, ""]]:
    """As `run_dense` for the first `capacity` tokens of each expert; and the number of choices left out.

    Dispatch is a partial one-to-one map between choices and places, so that both directions, and
    both derivatives, are gathers.
    """
    count, width, _ = experts.gate.shape
    total, per_token = choices.shape
    place, overflow = places(choices, weights, count, capacity)
    # choice of each place: one integer scatter; `total * per_token` marks an empty place
    index = jnp.arange(total * per_token, dtype=jnp.int32)
    choice_of = jnp.full(count * capacity + 1, total * per_token, jnp.int32)
    choice_of = choice_of.at[place.reshape(-1)].set(index)[:-1]
    token_of = jnp.minimum(choice_of, total * per_token - 1) // per_token
    filled = choice_of < total * per_token
    gathered = _dispatch(tokens, token_of, filled, place).reshape(count, capacity, width)
    inner = jax.nn.silu(gathered @ experts.gate) * (gathered @ experts.up)
    out = (inner @ experts.down).reshape(count * capacity, width)
    back = _collect(out, place.reshape(-1), choice_of, filled).reshape(total, per_token, width)
    return (back * weights[..., None]).sum(1), overflow


def places(choices, weights, count: int, capacity: int):
    """Place of each choice in [expert x capacity], in the order of tokens; the last number for none."""
    taken = (choices >= 0) & (weights != 0)
    hot = jax.nn.one_hot(jnp.where(taken, choices, -1), count, dtype=jnp.int32)
    own = hot.sum(1, dtype=jnp.int32)
    before = jnp.cumsum(own, axis=0, dtype=jnp.int32) - own
    position = jnp.take_along_axis(before, jnp.maximum(choices, 0), axis=1)
    fits = taken & (position < capacity)
    place = jnp.where(fits, choices * capacity + position, count * capacity)
    return place.astype(jnp.int32), (taken & ~fits).sum(dtype=jnp.int32)


@jax.custom_vjp
def _dispatch(tokens, token_of, filled, place):
    return jnp.where(filled[:, None], tokens[token_of], 0)


def _dispatch_forward(tokens, token_of, filled, place):
    return _dispatch(tokens, token_of, filled, place), place


def _dispatch_back(place, slope):
    slope = jnp.concatenate([slope, jnp.zeros_like(slope[:1])])
    return slope[place].sum(1), None, None, None


_dispatch.defvjp(_dispatch_forward, _dispatch_back)


@jax.custom_vjp
def _collect(out, place, choice_of, filled):
    return jnp.concatenate([out, jnp.zeros_like(out[:1])])[place]


def _collect_forward(out, place, choice_of, filled):
    return _collect(out, place, choice_of, filled), (choice_of, filled)


def _collect_back(saved, slope):
    choice_of, filled = saved
    slope = slope[jnp.minimum(choice_of, len(slope) - 1)]
    return jnp.where(filled[:, None], slope, 0), None, None, None


_collect.defvjp(_collect_forward, _collect_back)
