"""The L1 best-response residual of Definition 3.1 (arXiv 2604.04230) at one theta per instance."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.estimate.congestion.tilt import Tilt, sum_over_experts, tilted_weights


class Point(eqx.Module):
    """What the search knows at one theta.

    Attributes:
        theta: scaled congestion.
        residual: `R = sum |phi - load|`.
        slope: dR / dtheta, from the right where the two sides differ.
        bend: second derivative of `2 phi(S)`, S the experts with `phi > load` (equation (1) of
            `l1.py`).
        variance: of x under phi.
        tail: lower bound on R at every larger theta, equation (2) of `l1.py`.
    """

    theta: Float[Array, "*lane"]
    residual: Float[Array, "*lane"]
    slope: Float[Array, "*lane"]
    bend: Float[Array, "*lane"]
    variance: Float[Array, "*lane"]
    tail: Float[Array, "*lane"]


def evaluate(theta: Float[Array, "*lane"], tilt: Tilt) -> Point:
    """One pass of exponentials; the moments of x, then the distances."""
    weights, _ = tilted_weights(theta, tilt)

    def moments(direction, load, weight):
        del load
        first = weight * direction
        return weight, first, first * direction

    total, first, second = sum_over_experts(moments, 3, tilt, weights)
    per_total = 1 / total
    mean = first * per_total
    variance = jnp.maximum(second * per_total - mean**2, 0)
    # Sets of least loaded experts for the tail: below the uniform load, and below m, at least the
    # last. Ties of the least load differ by rounding at most; a set a little larger is as valid.
    level = jnp.maximum(jnp.minimum(mean, 0), tilt.bottom + 1e-6)

    def distances(direction, load, weight):
        response = weight * per_total
        excess = response - tilt.share * load
        over = jnp.where(excess > 0, response, 0)
        offset = direction - mean
        below = [jnp.where(direction <= one, excess, 0) for one in (0, level)]
        return jnp.abs(excess), over * offset, over * (offset**2 - variance), *below

    distance, first_over, second_over, *low = sum_over_experts(distances, 5, tilt, weights)
    return Point(
        theta=theta,
        residual=distance,
        slope=-2 * first_over,
        bend=2 * second_over,
        variance=variance,
        tail=2 * jnp.maximum(*low),
    )
