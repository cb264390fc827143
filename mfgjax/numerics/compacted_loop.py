"""A loop over lanes that goes on with the unfinished quarter once the other three have finished.

Lanes run in lock step, so a block takes as many steps as its slowest lane, a multiple of the mean in the
search of Definition 3.1. Moved together, the last quarter takes its remaining steps at a fraction of the
price. Once: every further move compiles the step again.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

State = TypeVar("State")
Constants = TypeVar("Constants")

FEWEST = 128
"""Lanes below which moving them costs more than it saves."""


def compacted_loop(
    step: Callable[[State, Constants], State],
    active: Callable[[State], Bool[Array, " lane"]],
    state: State,
    constants: Constants,
    *,
    compact: bool = True,
) -> State:
    """`step` until no lane of `state` is active.

    Args:
        step: must treat every lane by itself, and one that is not active must stay so, with its answer.
        active: which lanes have not finished.
        state: arrays with lanes as their last axis.
        constants: likewise; what a lane reads and does not change.
        compact: whether the unfinished quarter is moved together. Static: it compiles the step twice.
    """

    def advance(state, constants, rest: int):
        return lax.while_loop(
            lambda state: active(state).sum() > rest, lambda state: step(state, constants), state
        )

    lanes = active(state).shape
    quarter = lanes[0] // 4 if len(lanes) == 1 else 0
    if quarter < FEWEST or not compact:
        return advance(state, constants, 0)
    state = advance(state, constants, quarter)
    last = jnp.argsort(~active(state), stable=True)[:quarter]

    def take(tree):
        return jax.tree.map(lambda leaf: leaf[..., last], tree)

    finished = advance(take(state), take(constants), 0)
    return jax.tree.map(lambda leaf, few: leaf.at[..., last].set(few), state, finished)
