"""Root of the first-order condition of the likelihood, in the units of `tilt.py`.

    sum_i load_i x_i = E_theta[x],        d E_theta[x] / d theta = -Var_theta[x],            (1)

(derived; the curvature is the Fisher information of one dispatch). The third derivative obeys
`|f'''| <= f''` because x spans 1, so the damped Newton step `log(1 + |d|) d/|d|` decreases the
objective from any start (Sun and Tran-Dinh 2019, "Generalized self-concordant functions", Theorem 3
with nu = 2). Near the root Halley's step takes its place: it uses the third cumulant, and the bound
on the fourth says how far from the root it ends, so the last step is not evaluated again.

E_theta[x] falls from max x to min x, so there is a root if and only if the mean of x under the load
lies strictly between.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from mfgjax.estimate.congestion.tilt import Tilt, scaled_quality, sum_over_experts, tilted_moments
from mfgjax.numerics.exponential import rough_log

MOST_STEPS = 64
"""Of Newton's method."""


class Root(eqx.Module):
    """Root of (1) for each lane.

    Attributes:
        theta: the root; without meaning where there is none.
        slope: bound on what is left of (1) there.
        variance: of x under the response.
        log_total: log of the response's normaliser.
        target: mean of x under the load.
        boundary: -1 where that is the smallest x and theta would be infinite, 1 where it is the
            largest and theta would be minus infinity, both to rounding; else 0.
        steps: Newton steps taken.
    """

    theta: Float[Array, "*lane"]
    slope: Float[Array, "*lane"]
    variance: Float[Array, "*lane"]
    log_total: Float[Array, "*lane"]
    target: Float[Array, "*lane"]
    boundary: Int[Array, "*lane"]
    steps: Int[Array, "*lane"]


class _Moments(eqx.Module):
    """What an evaluation at one theta gives."""

    theta: Float[Array, "*lane"]
    slope: Float[Array, "*lane"]
    variance: Float[Array, "*lane"]
    skew: Float[Array, "*lane"]
    log_total: Float[Array, "*lane"]


def solve_theta(tilt: Tilt) -> Root:
    """Root of (1), or the side on which there is none. The L1 search starts from it."""
    tolerance = slope_tolerance(tilt.load.dtype)
    start, target = _regression_start(tilt)
    # Closer to an end than this, the slope's rounding leaves theta open.
    near = 16 * tolerance
    boundary = (target > tilt.top - near).astype(jnp.int32)
    boundary = boundary - (target < tilt.bottom + near).astype(jnp.int32)

    def measure(theta):
        mean, variance, skew, log_total = tilted_moments(theta, tilt)
        return _Moments(theta, target - mean, variance, skew, log_total)

    def active(state):
        point, steps = state
        _, bound = _propose(point)
        return (bound > tolerance) & (steps < MOST_STEPS) & (boundary == 0)

    def step(state):
        point, steps = state
        moving = active(state)
        move, _ = _propose(point)
        moved = measure(point.theta + move)
        point = jax.tree.map(lambda new, old: jnp.where(moving, new, old), moved, point)
        return point, steps + moving.astype(jnp.int32)

    first = (measure(start), jnp.zeros(start.shape, jnp.int32))
    point, steps = lax.while_loop(lambda state: active(state).any(), step, first)
    # The last step needs no evaluation: its error is known.
    move, bound = _propose(point)
    near_root = bound <= tolerance
    move = jnp.where(near_root, move, 0)
    mean = point.slope - target
    change = move * (mean + move * (point.variance / 2 - move * point.skew / 6))
    return Root(
        theta=point.theta + move,
        slope=jnp.where(near_root, bound, jnp.abs(point.slope)),
        variance=jnp.maximum(point.variance - point.skew * move, 0),
        log_total=point.log_total + change,
        target=target,
        boundary=boundary,
        steps=steps,
    )


def _propose(point: _Moments):
    """Next step from an evaluated point, and a bound on the slope after it (infinite if far).

    Halley's step solves (1) to second order. The fourth cumulant of x is at most the variance v in
    size, and v grows at most by exp(|t|) over a step t: the rest is below `v exp(|t|) |t|^3 / 6`.
    """
    safe = jnp.maximum(point.variance, jnp.finfo(point.variance.dtype).tiny)
    newton = -point.slope / safe
    near = jnp.abs(newton) < 0.25
    newton_near = jnp.where(near, newton, 0)
    halley = 2 * newton_near / (1 + jnp.sqrt(1 - 2 * newton_near * point.skew / safe))
    damped = jnp.sign(newton) * jnp.log1p(jnp.abs(newton))
    rest = 0.23 * safe * jnp.abs(halley) ** 3  # exp(0.3) / 6: |t| < 0.3 where near
    return jnp.where(near, halley, damped), jnp.where(near, rest, jnp.inf)


def _regression_start(tilt: Tilt) -> tuple[Float[Array, "*lane"], Float[Array, "*lane"]]:
    """Weighted regression of `u - log load` on x, exact at an exact equilibrium; and mean x."""
    tiny = jnp.finfo(tilt.load.dtype).tiny

    log_ratio = scaled_quality(tilt) - rough_log(tilt.load)

    def term(direction, load, log_ratio):
        first = load * direction
        return first, first * direction, load * log_ratio, first * log_ratio

    mean, square, ratio, product = sum_over_experts(term, 4, tilt, log_ratio)
    mean, square, ratio, product = (tilt.share * one for one in (mean, square, ratio, product))
    return (product - mean * ratio) / jnp.maximum(square - mean**2, tiny), mean


def slope_tolerance(dtype) -> float:
    # The mean of x is a sum of M terms of order one: 4 eps is its rounding floor at M = 64.
    return 4 * float(jnp.finfo(dtype).eps)
