"""One compiled program for jobs of different size: the last one is filled up."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def filled_up(program: Callable[..., Any], size: int, *rows: np.ndarray) -> Any:
    """`program(*rows)` on the host, which sees a multiple of `size` rows: the last is repeated.

    Args:
        program: jitted; treats each row by itself. What it returns has the rows in front.
        size: rows that one compilation serves.
        rows: arrays of NumPy, at least one row, all equally many.
    """
    count = len(rows[0])
    which = np.minimum(np.arange(-(-count // size) * size), count - 1)
    found = jax.device_get(program(*(own[which] for own in rows)))
    return jax.tree.map(lambda leaf: leaf[:count], found)
