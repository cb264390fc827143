"""Maximum-likelihood congestion, signed.

    min_gamma KL(load || softmax((quality - gamma load) / temperature))

The logits are affine in gamma, so the objective is convex with one minimiser on the whole line, and
the fit needs no sign constraint: a negative congestion says that the load is more concentrated than
the softmax of quality. In the units of `tilt.py` the first-order condition is

    sum_i load_i x_i = E_theta[x],        d E_theta[x] / d theta = -Var_theta[x],            (1)

(derived; the curvature is the Fisher information of one dispatch). The third derivative obeys
`|f'''| <= f''` because x spans 1, so the damped Newton step `log(1 + |d|) d/|d|` decreases the
objective from any start (Sun and Tran-Dinh 2019, "Generalized self-concordant functions", Theorem 3
with nu = 2). Near the root Halley's step takes its place: it uses the third cumulant, and the bound
on the fourth says how far from the root it ends, so the last step is not evaluated again.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Int

from mfgjax.estimate.exponential import rough_log
from mfgjax.estimate.fit import CongestionFit, FitStatus
from mfgjax.estimate.tilt import (
    Tilt,
    make_tilt,
    scaled_quality,
    sum_over_experts,
    tilted_moments,
)


def fit_likelihood(
    quality: Float[Array, " expert *lane"],
    load: Float[Array, " expert *lane"],
    temperature: Float[Array, "*lane"],
    dispatches: Float[Array, "*lane"],
    *,
    max_steps: int = 64,
) -> CongestionFit:
    """Fit instances, experts leading. Never raises on values: read `status`.

    `congestion` is differentiable to any order, in both modes, in quality, load and temperature
    (implicit function theorem on (1)); NaN derivative where the fit did not converge.

    Args:
        quality: expert qualities, any common shift.
        load: dispatch fractions, summing to 1.
        temperature: of the softmax, > 0. Traced.
        dispatches: number of independent draws behind `load`, for the standard error; NaN if none.
        max_steps: static bound on Newton steps.
    """
    tilt = lax.stop_gradient(make_tilt(quality, load, temperature))
    theta, slope, variance, log_total, steps = solve_theta(tilt, max_steps)
    done = jnp.abs(slope) <= _slope_tolerance(tilt.load.dtype)
    status = jnp.where(done, FitStatus.CONVERGED, FitStatus.MAX_STEPS)
    status = jnp.where(tilt.identified, status, FitStatus.UNIDENTIFIED)
    status = jnp.where(tilt.valid, status, FitStatus.BAD_INPUT).astype(jnp.int32)
    known = tilt.valid & tilt.identified
    found = jnp.where(known, theta * tilt.unit, jnp.nan)
    converged = status == FitStatus.CONVERGED
    congestion = _attach_derivative(found, quality, load, temperature, converged)

    def cross_entropy(direction, load, base):
        load = tilt.share * load
        logit = jnp.where(load > 0, base - theta * direction - log_total, 0)
        return (xlogy(load, load) - load * logit,)

    (divergence,) = sum_over_experts(cross_entropy, 1, tilt, scaled_quality(tilt))
    tiny = jnp.finfo(variance.dtype).tiny
    information = lax.stop_gradient(dispatches) * variance
    return CongestionFit(
        congestion=congestion,
        residual=jnp.where(known, jnp.maximum(divergence, 0), jnp.nan),
        minima=known.astype(jnp.int32),
        at_boundary=jnp.zeros_like(known),
        standard_error=jnp.where(known, tilt.unit / jnp.sqrt(information), jnp.nan),
        # Self-concordance: f - f* <= s^2 / v once the Newton step s / v is below 1/2.
        gap=jnp.where(known, slope**2 / jnp.maximum(variance, tiny), jnp.nan),
        steps=steps,
        status=status,
    )


def solve_theta(
    tilt: Tilt, max_steps: int
) -> tuple[
    Float[Array, "*lane"],
    Float[Array, "*lane"],
    Float[Array, "*lane"],
    Float[Array, "*lane"],
    Int[Array, "*lane"],
]:
    """Root of (1): theta, bound on the slope, variance and log normaliser there, steps.

    Shared with the L1 search, which starts from it.
    """
    tolerance = _slope_tolerance(tilt.load.dtype)
    start, target = _regression_start(tilt)

    def measure(theta):
        mean, variance, skew, log_total = tilted_moments(theta, tilt)
        return theta, target - mean, variance, skew, log_total

    def active(state):
        point, steps = state
        _, bound = _propose(point)
        return (bound > tolerance) & (steps < max_steps)

    def step(state):
        point, steps = state
        moving = active(state)
        move, _ = _propose(point)
        moved = measure(point[0] + move)
        point = tuple(jnp.where(moving, new, old) for new, old in zip(moved, point, strict=True))
        return point, steps + moving.astype(jnp.int32)

    first = (measure(start), jnp.zeros(start.shape, jnp.int32))
    point, steps = lax.while_loop(lambda state: active(state).any(), step, first)
    # The last step needs no evaluation: its error is known.
    theta, slope, variance, skew, log_total = point
    move, bound = _propose(point)
    move = jnp.where(bound <= tolerance, move, 0)
    bound = jnp.where(bound <= tolerance, bound, jnp.abs(slope))
    log_total = log_total + move * (slope - target + move * (variance / 2 - move * skew / 6))
    variance = jnp.maximum(variance - skew * move, 0)
    return theta + move, bound, variance, log_total, steps


def _propose(point):
    """Next step from an evaluated point, and a bound on the slope after it (infinite if far).

    Halley's step solves (1) to second order. The fourth cumulant of x is at most the variance v in
    size, and v grows at most by exp(|t|) over a step t: the rest is below `v exp(|t|) |t|^3 / 6`.
    """
    _, slope, variance, skew, _ = point
    tiny = jnp.finfo(variance.dtype).tiny
    safe = jnp.maximum(variance, tiny)
    newton = -slope / safe
    near = jnp.abs(newton) < 0.25
    newton_near = jnp.where(near, newton, 0)
    halley = 2 * newton_near / (1 + jnp.sqrt(1 - 2 * newton_near * skew / safe))
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


def _slope_tolerance(dtype) -> float:
    # The mean of x is a sum of M terms of order one: 4 eps is its rounding floor at M = 64.
    return 4 * float(jnp.finfo(dtype).eps)


@jax.custom_jvp
def _attach_derivative(congestion, quality, load, temperature, converged):
    """Identity in `congestion`, carrying the implicit derivative of the first-order condition.

    With `g(gamma) = sum load^2 - sum phi load`, `dgamma = -(dg) / (dg/dgamma)`. The NaN of a failed
    fit goes into the divisor: masking outside would make reverse mode 0 * nan.
    """
    del quality, load, temperature, converged
    return congestion


def _condition(congestion, quality, load, temperature):
    response = jax.nn.softmax((quality - congestion[None] * load) / temperature[None], axis=0)
    return (load * load - response * load).sum(0)


@_attach_derivative.defjvp
def _attach_derivative_jvp(primals, tangents):
    found, quality, load, temperature, converged = primals
    _, *dots, _ = tangents
    congestion = _attach_derivative(found, quality, load, temperature, converged)
    inputs = (quality, load, temperature)
    ones = jnp.ones_like(congestion)
    _, slope = jax.jvp(lambda c: _condition(c, *inputs), (congestion,), (ones,))
    slope = jnp.where(converged, slope, jnp.nan)
    _, push = jax.jvp(lambda *args: _condition(congestion, *args), inputs, tuple(dots))
    return congestion, -push / slope
