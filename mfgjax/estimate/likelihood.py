"""Maximum-likelihood congestion, signed.

    min_gamma KL(load || softmax((quality - gamma load) / temperature))

The logits are affine in gamma, so the objective is convex with one minimiser on the whole line, and
the fit needs no sign constraint: a negative congestion says that the load is more concentrated than
the softmax of quality. In the units of `tilt.py` the first-order condition is

    sum_i load_i x_i = E_theta[x],        d E_theta[x] / d theta = -Var_theta[x],            (1)

(derived; the curvature is the Fisher information of one dispatch). The third derivative obeys
`|f'''| <= f''` because x spans 1, so the damped Newton step `log(1 + |d|) d/|d|` decreases the
objective from any start and is quadratic at the end (Sun and Tran-Dinh 2019, "Generalized
self-concordant functions", Theorem 3 with nu = 2).
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Int

from mfgjax.estimate.fit import CongestionFit, FitStatus
from mfgjax.estimate.tilt import Tilt, make_tilt, sum_over_experts, tilted_moments


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

    def cross_entropy(base, direction, load):
        logit = jnp.where(load > 0, base - theta * direction - log_total, 0)
        return (xlogy(load, load) - load * logit,)

    (divergence,) = sum_over_experts(cross_entropy, 1, tilt)
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
    """Root of (1) by damped Newton: theta, slope, variance and log normaliser there, steps.

    Shared with the L1 search, which starts from it.
    """
    tolerance = _slope_tolerance(tilt.load.dtype)
    tiny = jnp.finfo(tilt.load.dtype).tiny
    start, target = _regression_start(tilt)

    def active(state):
        _, slope, _, _, steps = state
        return (jnp.abs(slope) > tolerance) & (steps < max_steps)

    def step(state):
        theta, slope, variance, log_total, steps = state
        moving = active(state)
        newton = -slope / jnp.maximum(variance, tiny)
        moved = theta + jnp.sign(newton) * jnp.log1p(jnp.abs(newton))
        theta = jnp.where(moving, moved, theta)
        mean, new_variance, new_total = tilted_moments(theta, tilt)
        return (
            theta,
            jnp.where(moving, target - mean, slope),
            jnp.where(moving, new_variance, variance),
            jnp.where(moving, new_total, log_total),
            steps + moving.astype(jnp.int32),
        )

    mean, variance, log_total = tilted_moments(start, tilt)
    first = (start, target - mean, variance, log_total, jnp.zeros(start.shape, jnp.int32))
    return lax.while_loop(lambda state: active(state).any(), step, first)


def _regression_start(tilt: Tilt) -> tuple[Float[Array, "*lane"], Float[Array, "*lane"]]:
    """Weighted regression of `u - log load` on x, exact at an exact equilibrium; and mean x."""
    tiny = jnp.finfo(tilt.load.dtype).tiny

    def term(base, direction, load):
        log_ratio = jnp.where(load > 0, base - jnp.log(jnp.maximum(load, tiny)), 0)
        first = load * direction
        return first, first * direction, load * log_ratio, first * log_ratio

    mean, square, ratio, product = sum_over_experts(term, 4, tilt)
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
