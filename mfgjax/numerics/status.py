"""One vocabulary for how a solve, a fit or a search ended, and its words where a result is printed.

Inside a result a status stays an integer, which `jit` can carry.
"""

import dataclasses
import enum
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer


class NamedInteger(enum.IntEnum):
    """An integer for arrays, a word where it is printed."""

    def __str__(self) -> str:
        return self.name


class Status(NamedInteger):
    """Why an iteration stopped. Only `CONVERGED` certifies the answer; larger is worse where layers are pooled.

    An integer array inside results, which `jit` can carry; printed as a word.
    """

    CONVERGED = 0
    """The residual or the gap is within tolerance, or at the rounding floor, and the answer is the one."""
    STEP_LIMIT = 1
    """The step limit came first: the best value found is returned, without a certificate."""
    BAD_INPUT = 2
    """Non-finite or negative input, fractions that do not sum to 1, or a temperature that is not > 0. NaN."""
    NOT_UNIQUE = 3
    """A fixed point, but congestion is so negative that others may exist: `find_equilibria`."""
    CYCLE = 4
    """The truncated best response returned to a load it had already left."""
    INFEASIBLE = 5
    """The capacities of the cost do not sum to more than 1; loads are NaN."""
    PRECISION = 6
    """Prices are so steep that rounding hides 1% of tokens, or a tenth of a response."""
    UNIDENTIFIED = 7
    """The load is uniform: every congestion gives the same best response. The estimate is NaN."""
    UNBOUNDED = 8
    """The objective has no finite minimiser: it falls towards the end of the range, as far as rounding
    and the length of the search can tell. For `"kl"` (minus infinity) and `"equilibrium"` (infinity) the
    estimate is that end and the residual its limit there; for `"l1"` they are where the search ended."""


class _Words:
    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def repr_with_words(result: Any, statuses: type[enum.IntEnum]) -> str:
    """The `repr` of an equinox module, with words for its field `status`.

    Args:
        result: with a field `status`: one integer, or a batch, which is counted: `3 CONVERGED, 1 CYCLE`.
            What has no values yet (inside `jit`) or not here (other hosts) is printed as equinox does.
        statuses: what the integers mean.
    """
    status = result.status
    here = isinstance(status, np.ndarray | np.generic) or (
        isinstance(status, jax.Array)
        and not isinstance(status, Tracer)
        and status.is_fully_addressable
    )
    if not here:
        return eqx.tree_pformat(result)
    values, counts = np.unique(np.asarray(status), return_counts=True)
    known = {int(member): member.name for member in statuses}
    words = [known.get(int(value), str(value)) for value in values]
    if np.ndim(status):
        words = [f"{count} {word}" for count, word in zip(counts, words, strict=True)]
    return eqx.tree_pformat(dataclasses.replace(result, status=_Words(", ".join(words) or "none")))
