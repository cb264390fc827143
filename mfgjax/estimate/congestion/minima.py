"""How many local minima the residual of Definition 3.1 shows on a fixed grid."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from mfgjax.estimate.congestion.residual import evaluate
from mfgjax.estimate.congestion.tilt import Tilt

_GRID = 32
_FARTHEST = 1e3


def count_minima(tilt: Tilt) -> Int[Array, "*lane"]:
    """Local minima seen between grid points: falling at one, rising at the next.

    Even spacing where the residual bends (theta about 1), geometric beyond. A lower bound on the
    true number: two minima between neighbouring points look like one.
    """
    dtype = tilt.load.dtype
    reach = math.asinh(_FARTHEST)
    # On a far plateau the slope is rounding: a fall must be a real one.
    flat = 8 * float(jnp.finfo(dtype).eps)

    def visit(index, state):
        count, falling = state
        fraction = jnp.asarray(index, dtype) / (_GRID - 1)
        theta = jnp.full_like(tilt.unit, jnp.sinh(fraction * reach))
        slope = evaluate(theta, tilt).slope
        first_and_rising = (index == 0) & (slope >= 0)
        count = count + ((falling & (slope >= 0)) | first_and_rising).astype(jnp.int32)
        return count, slope < -flat

    none = jnp.zeros(tilt.unit.shape, jnp.int32)
    count, _ = lax.fori_loop(0, _GRID, visit, (none, jnp.zeros(none.shape, bool)))
    return count
