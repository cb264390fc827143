"""Values that no game can have, refused where a game is built from concrete arrays."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.core import Tracer

Test = tuple[Any, Callable[[Any], Any], str]
"""An array (or None), what accepts its values, and what they should be, in words."""


def refuse_bad_values(tests: Mapping[str, Test]) -> None:
    """Raise on the first array that fails its test; tracers and None pass.

    Raises:
        ValueError: naming the array, how many of its values fail, and the first.
    """
    for name, (leaf, accept, wanted) in tests.items():
        if leaf is None or isinstance(leaf, Tracer):
            continue
        good = accept(np.asarray(leaf))
        if not good.all():
            first = tuple(int(i) for i in np.argwhere(~good)[0])
            raise ValueError(
                f"{name} must be {wanted}: {(~good).sum()} of {good.size} values are not, the "
                f"first at {first}. Build the game inside jit or vmap for a status per instance."
            )
