"""The L1 best-response residual of Definition 3.1 (arXiv 2604.04230) at one theta per instance."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.estimate.tilt import Tilt, log_weight_shift, sum_over_experts


class Point(eqx.Module):
    """What the search knows at one theta.

    Attributes:
        theta: scaled congestion.
        residual: `R = sum |phi - load|`.
        slope: dR / dtheta, from the right where the two sides differ.
        variance: of x under phi.
        tail: lower bound on R at every larger theta, equation (2) of `best_response.py`.
    """

    theta: Float[Array, "*lane"]
    residual: Float[Array, "*lane"]
    slope: Float[Array, "*lane"]
    variance: Float[Array, "*lane"]
    tail: Float[Array, "*lane"]


def evaluate(theta: Float[Array, "*lane"], tilt: Tilt) -> Point:
    """Two passes over the experts: the moments, then the distances (2 M exponentials)."""
    shift = log_weight_shift(theta, tilt)

    def weight(base, direction):
        return jnp.exp(base - theta * direction - shift)

    def moments(base, direction, load):
        del load
        mass = weight(base, direction)
        first = mass * direction
        return mass, first, first * direction

    total, first, second = sum_over_experts(moments, 3, tilt)
    mean = first / total
    # Sets of least loaded experts for the tail: below the uniform load, below m, the least loaded.
    centre, low = 0.0, jnp.minimum(mean, 0)
    # Ties of the least load differ by rounding at most; a set a little larger is as valid.
    bottom = tilt.bottom + 1e-6

    def distances(base, direction, load):
        response = weight(base, direction) / total
        excess = response - load
        over = jnp.where(excess > 0, response * (direction - mean), 0)
        below = [jnp.where(direction <= level, excess, 0) for level in (centre, low, bottom)]
        return jnp.abs(excess), over, *below

    distance, over, *below = sum_over_experts(distances, 5, tilt)
    tail = 2 * jnp.maximum(jnp.maximum(below[0], below[1]), below[2])
    variance = jnp.maximum(second / total - mean**2, 0)
    return Point(theta=theta, residual=distance, slope=-2 * over, variance=variance, tail=tail)
