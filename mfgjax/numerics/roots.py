"""Bisection and golden section: a fixed number of steps, no derivative, no failure.

Searches that carry more than a bracket (Newton's method kept inside one, the lowest value seen) are
written where they are used.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

GOLDEN = 0.5 * (math.sqrt(5.0) - 1.0)


def bisect(
    beyond: Callable[[Float[Array, "*lane"]], Bool[Array, "*lane"]],
    low: Float[Array, "*lane"],
    high: Float[Array, "*lane"],
    halvings: int,
) -> Float[Array, "*lane"]:
    """Where `beyond` turns from false to true between `low` and `high`; inside `jit`.

    Args:
        beyond: whether the place sought lies before its argument; elementwise over lanes.
        low, high: brackets; `high` may lie below `low`.
        halvings: static; the error is the bracket over `2^(halvings + 1)`.
    """

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        past = beyond(middle)
        return jnp.where(past, low, middle), jnp.where(past, middle, high)

    low, high = lax.fori_loop(0, halvings, halve, (low, high))
    return 0.5 * (low + high)


def narrow_on_host(beyond: Callable, low, high, halvings: int) -> tuple[np.ndarray, np.ndarray]:
    """The bracket that `bisect` ends with, for a `beyond` that runs on the host."""
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        past = beyond(middle)
        low, high = np.where(past, low, middle), np.where(past, middle, high)
    return low, high


def golden_maximum(
    function: Callable[[Float[Array, "*lane"]], Float[Array, "*lane"]],
    low: Float[Array, "*lane"],
    high: Float[Array, "*lane"],
    steps: int,
) -> Float[Array, "*lane"]:
    """Where a function with one maximum between `low` and `high` has it; inside `jit`.

    Args:
        function: elementwise over lanes.
        low, high: the bracket.
        steps: static; each leaves 0.618 of it.
    """

    def narrow(_, bracket):
        low, high = bracket
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        rising = function(left) < function(right)
        return jnp.where(rising, left, low), jnp.where(rising, high, right)

    low, high = lax.fori_loop(0, steps, narrow, (low, high))
    return 0.5 * (low + high)
