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
from mfgjax.estimate.tilt import Tilt, make_tilt, tilted_response


def fit_likelihood(
    quality: Float[Array, " expert"],
    load: Float[Array, " expert"],
    temperature: Float[Array, ""],
    dispatches: Float[Array, ""],
    *,
    max_steps: int = 64,
) -> CongestionFit:
    """Fit one instance; batch with `jax.vmap`. Never raises on values: read `status`.

    `congestion` is differentiable to any order, in both modes, in quality, load and temperature
    (implicit function theorem on (1)); NaN derivative where the fit did not converge.

    Args:
        quality: expert qualities, any common shift.
        load: dispatch fractions, summing to 1.
        temperature: of the softmax, > 0. Traced.
        dispatches: number of independent draws behind `load`, for the standard error; NaN if none.
        max_steps: static bound on Newton steps.
    """
    tilt = make_tilt(quality, load, temperature)
    theta, slope, steps = solve_theta(lax.stop_gradient(tilt), max_steps)
    done = jnp.abs(slope) <= _slope_tolerance(tilt.load.dtype)
    status = jnp.where(done, FitStatus.CONVERGED, FitStatus.MAX_STEPS)
    status = jnp.where(tilt.identified, status, FitStatus.UNIDENTIFIED)
    status = jnp.where(tilt.valid, status, FitStatus.BAD_INPUT)
    stopped = lax.stop_gradient(theta * tilt.unit)
    found = jnp.where(tilt.valid & tilt.identified, stopped, jnp.nan)
    congestion = _attach_derivative(
        found, quality, load, temperature, status == FitStatus.CONVERGED
    )
    response = tilted_response(theta, tilt)
    variance = _variance(response, tilt)
    divergence = (xlogy(tilt.load, tilt.load) - xlogy(tilt.load, response)).sum()
    return CongestionFit(
        congestion=congestion,
        residual=jnp.where(jnp.isnan(found), jnp.nan, jnp.maximum(divergence, 0)),
        minima=jnp.where(jnp.isnan(found), 0, 1),
        at_boundary=jnp.zeros((), bool),
        standard_error=tilt.unit / jnp.sqrt(dispatches * variance) + 0 * found,
        gap=_gap(slope, variance) + 0 * found,
        steps=steps,
        status=status,
    )


def solve_theta(
    tilt: Tilt, max_steps: int
) -> tuple[Float[Array, ""], Float[Array, ""], Int[Array, ""]]:
    """Root of (1) by damped Newton; returns theta, the last slope of the objective, the steps.

    Shared with the L1 search, which starts from it.
    """
    target = (tilt.load * tilt.direction).sum()
    tolerance = _slope_tolerance(tilt.load.dtype)

    def moments(theta):
        response = tilted_response(theta, tilt)
        mean = (response * tilt.direction).sum()
        variance = (response * (tilt.direction - mean) ** 2).sum()
        return target - mean, variance

    def unfinished(state):
        _, slope, _, steps = state
        return (jnp.abs(slope) > tolerance) & (steps < max_steps)

    def step(state):
        theta, slope, variance, steps = state
        newton = -slope / jnp.maximum(variance, jnp.finfo(variance.dtype).tiny)
        theta = theta + jnp.sign(newton) * jnp.log1p(jnp.abs(newton))
        return theta, *moments(theta), steps + 1

    start = _regression_start(tilt)
    theta, slope, _, steps = lax.while_loop(
        unfinished, step, (start, *moments(start), jnp.zeros((), jnp.int32))
    )
    return theta, slope, steps


def _regression_start(tilt: Tilt) -> Float[Array, ""]:
    """Weighted regression of `u - log load` on x: exact at an exact equilibrium, else close."""
    tiny = jnp.finfo(tilt.load.dtype).tiny
    weight = tilt.load
    response = jnp.where(weight > 0, tilt.base - jnp.log(jnp.maximum(weight, tiny)), 0)
    centred = tilt.direction - (weight * tilt.direction).sum()
    variance = (weight * centred**2).sum()
    return (weight * centred * response).sum() / jnp.maximum(variance, tiny)


def _slope_tolerance(dtype) -> float:
    # The mean of x is a sum of M terms of order one: 4 eps is its rounding floor at M = 64.
    return 4 * float(jnp.finfo(dtype).eps)


def _variance(response, tilt):
    mean = (response * tilt.direction).sum()
    return (response * (tilt.direction - mean) ** 2).sum()


def _gap(slope, variance):
    # Self-concordance: f - f* <= s^2/v * w(s/v), and w <= 1 once the Newton step is below 1/2.
    return slope**2 / jnp.maximum(variance, jnp.finfo(variance.dtype).tiny)


@jax.custom_jvp
def _attach_derivative(congestion, quality, load, temperature, converged):
    """Identity in `congestion`, carrying the implicit derivative of the first-order condition.

    With `g(gamma) = sum load^2 - sum phi load`, `dgamma = -(dg) / (dg/dgamma)`. The NaN of a failed
    fit goes into the divisor: masking outside would make reverse mode 0 * nan.
    """
    del quality, load, temperature, converged
    return congestion


def _condition(congestion, quality, load, temperature):
    response = jax.nn.softmax((quality - congestion * load) / temperature)
    return (load * load).sum() - (response * load).sum()


@_attach_derivative.defjvp
def _attach_derivative_jvp(primals, tangents):
    found, quality, load, temperature, converged = primals
    _, *dots, _ = tangents
    congestion = _attach_derivative(found, quality, load, temperature, converged)
    inputs = (quality, load, temperature)
    slope = jax.grad(_condition)(congestion, *inputs)
    slope = jnp.where(converged, slope, jnp.nan)
    _, push = jax.jvp(lambda *args: _condition(congestion, *args), inputs, tuple(dots))
    return congestion, -push / slope
