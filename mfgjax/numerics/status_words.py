"""Statuses as words where a result is printed; inside it they stay integers, which `jit` can carry."""

import dataclasses
import enum
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer


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
