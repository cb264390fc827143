"""Newton steps on the exact Hessian, in a box, stopped by a statistical criterion.

A step divides the score by the absolute eigenvalues of the Hessian scaled to unit diagonal, plus a damping
that falls while steps do what the quadratic says (Levenberg): it rises from a saddle too. What is left is
told by the decrement `g' H^-1 g` of the total log-likelihood: the squared distance to the maximum in
standard errors, and twice the nats still to be had. A parameter at its bound whose score points
outwards is held there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mfgjax.gaussian_moe.layout import Layout
from mfgjax.gaussian_moe.scores import Moments, Rows, moments

SMALLEST_CURVATURE = 1e-12
"""Of the unit-diagonal information, below which a direction counts as flat: rounding is 1e-15 to 1e-13."""
FLAT = 10 * SMALLEST_CURVATURE
"""Eigenvalues up to this are reported as null directions."""
_SADDLE = 1e-7
_ROUNDING = 1e-13


class Eigen(NamedTuple):
    """Eigenvalues, ascending, and vectors of a matrix scaled to unit diagonal."""

    values: Float[Array, " parameter"]
    vectors: Float[Array, "parameter parameter"]
    scale: Float[Array, " parameter"]


class Polished(NamedTuple):
    """Where the search ended."""

    vector: Float[Array, " parameter"]
    found: Moments
    decrement: Float[Array, ""]
    steps: Int[Array, ""]


def held(vector: Array, gradient: Array, box: tuple[Array, Array]) -> Bool[Array, " parameter"]:
    """Parameters at a bound whose score points out of the box."""
    return ((vector <= box[0]) & (gradient < 0)) | ((vector >= box[1]) & (gradient > 0))


def scaled_eigen(matrix: Array, fixed: Bool[Array, " parameter"]) -> Eigen:
    """Of `matrix`; what is held gets eigenvalue 1."""
    scale = jnp.sqrt(jnp.maximum(jnp.abs(jnp.diag(matrix)), 1e-200))
    scaled = matrix / scale[:, None] / scale[None]
    eye = jnp.eye(len(scale), dtype=scale.dtype)
    off = fixed[:, None] | fixed[None] | ~jnp.isfinite(scaled)
    values, vectors = jnp.linalg.eigh(jnp.where(off, eye, scaled))
    return Eigen(values, vectors, scale)


def polish(
    layout: Layout,
    vector: Float[Array, " parameter"],
    rows: Rows,
    box: tuple[Array, Array],
    tolerance: float | Float[Array, ""],
    max_steps: int | Int[Array, ""],
) -> Polished:
    """From `vector` to a decrement of `tolerance`, or `max_steps` passes over the data."""

    def unfinished(state):
        *_, decrement, lowest, steps, stalled = state
        return ((decrement > tolerance) | (lowest < -_SADDLE)) & ~stalled & (steps <= max_steps)

    def step(state):
        vector, found, trial, hoped, damping, _, _, steps, _ = state
        there = moments(layout, trial, rows)
        gain = there.log_likelihood - found.log_likelihood
        unit = _ROUNDING * (1 + jnp.abs(there.log_likelihood))
        better = (gain >= 1e-4 * hoped) | ((hoped <= unit) & (gain >= -1e3 * unit))
        tamer = jnp.where(gain >= 0.5 * hoped, damping / 30, damping)
        damping = jnp.where(better, tamer, jnp.maximum(8 * damping, 1e-4))
        vector, found = jax.tree.map(
            lambda new, old: jnp.where(better, new, old), (trial, there), (vector, found)
        )
        fixed = held(vector, found.gradient, box)
        seen = scaled_eigen(-found.hessian, fixed)
        score = seen.vectors.T @ jnp.where(fixed, 0, found.gradient / seen.scale)
        size = jnp.maximum(jnp.abs(seen.values), SMALLEST_CURVATURE)
        decrement = (score**2 / size).sum()
        # At rest where the likelihood curves upwards: one unit along that direction.
        saddle = (decrement <= tolerance) & (seen.values < -_SADDLE)
        pull = score + jnp.where(saddle, jnp.where(score < 0, -1, 1), 0)
        size = size + damping
        move = seen.vectors @ (pull / size) / seen.scale
        move = move / jnp.maximum((jnp.abs(move) / (2 + jnp.abs(vector))).max(), 1)
        trial = jnp.clip(vector + move, *box)
        move = trial - vector
        hoped = found.gradient @ move + 0.5 * move @ found.hessian @ move
        stalled = ((decrement <= unit) & ~saddle.any()) | (damping > 1e10)
        lowest = seen.values[0]
        return vector, found, trial, hoped, damping, decrement, lowest, steps + 1, stalled

    size, dtype = layout.parameters, vector.dtype
    zero, square = jnp.zeros(size, dtype), jnp.zeros((size, size), dtype)
    nothing = jnp.asarray(-jnp.inf, dtype)
    first = (
        vector,
        Moments(nothing, zero, square),
        vector,
        nothing,
        jnp.asarray(3e-2, dtype),
        -nothing,
        -nothing,
        jnp.zeros((), jnp.int32),
        jnp.zeros((), bool),
    )
    vector, found, *_, decrement, _, steps, _ = lax.while_loop(unfinished, step, first)
    return Polished(vector, found, decrement, steps - 1)
