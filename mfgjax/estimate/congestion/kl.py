"""Maximum-likelihood congestion, signed.

    min_gamma KL(load || softmax((quality - gamma load) / temperature))

The logits are affine in gamma, so the objective is convex on the whole line, and the fit needs no
sign constraint: a negative congestion says that the load is more concentrated than the softmax of
quality. The first-order condition is

    sum_i load_i^2 = sum_i phi_i load_i,        phi = softmax((quality - gamma load) / temperature)  (1)

(derived), solved in scaled units by `tilt_root.py`.

**Existence.** The right of (1) falls in gamma from the largest load to the smallest, so (1) has a root if
and only if the left lies strictly between. It is above the smallest, as the load is not uniform, and equals
the largest where all experts with a load have the same one (derived). There the objective falls
towards congestion = -infinity, where the response is softmax(quality / temperature) among the experts
with a load: `UNBOUNDED`.

**Standard error.** The load is both the data and the regressor. With `psi(gamma, load)` the left minus
the right of (1), `d gamma = -(d psi / d load) / (d psi / d gamma)`; over n independent dispatches (derived)

    n se^2 = Var_load(a) (temperature / Var_phi(load))^2,
    a_j = 2 load_j - phi_j + gamma/temperature phi_j (load_j - E_phi[load]).               (2)

Taking the regressor for fixed leaves `a_j = load_j`, the inverse Fisher information: too small by a factor
of about 1 + gamma/temperature load.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from mfgjax.estimate.congestion.result import CongestionFit
from mfgjax.estimate.congestion.tilt import Tilt, make_tilt, scaled_quality, sum_over_experts
from mfgjax.estimate.congestion.tilt_root import Root, slope_tolerance, solve_theta
from mfgjax.numerics.implicit import attach_root
from mfgjax.numerics.status import Status


def fit_likelihood(
    quality: Float[Array, " expert *lane"],
    load: Float[Array, " expert *lane"],
    temperature: Float[Array, "*lane"],
    dispatches: Float[Array, "*lane"],
) -> CongestionFit:
    """Fit instances, experts leading. Never raises on values: read `status`.

    `congestion` is differentiable to any order, in both modes, in quality, load and temperature
    (implicit function theorem on (1)); NaN derivative where the fit did not converge.

    Args:
        quality: expert qualities, any common shift.
        load: dispatch fractions, summing to 1.
        temperature: of the softmax, > 0. Traced.
        dispatches: number of independent draws behind `load`, for the standard error (2) with
            quality known; NaN if none.
    """
    tilt = lax.stop_gradient(make_tilt(quality, load, temperature))
    root = solve_theta(tilt)
    known = tilt.valid & tilt.identified
    done = jnp.abs(root.slope) <= slope_tolerance(tilt.load.dtype)
    status = jnp.where(done, Status.CONVERGED, Status.STEP_LIMIT)
    status = jnp.where(root.boundary == 0, status, Status.UNBOUNDED)
    status = jnp.where(tilt.identified, status, Status.UNIDENTIFIED)
    status = jnp.where(tilt.valid, status, Status.BAD_INPUT).astype(jnp.int32)
    converged = status == Status.CONVERGED
    found = jnp.where(known, root.theta * tilt.unit, jnp.nan)
    found = jnp.where(status == Status.UNBOUNDED, -jnp.inf, found)
    congestion = attach_root(_condition, found, (quality, load, temperature), converged)

    def at_infinity(lanes):
        return jnp.where(status == Status.UNBOUNDED, _divergence_at_infinity(tilt), lanes)

    # Both conditions are rare, and either costs as much as a Newton step.
    divergence = _divergence(root, tilt)
    divergence = lax.cond((status == Status.UNBOUNDED).any(), at_infinity, lambda d: d, divergence)
    dispatches = lax.stop_gradient(dispatches)
    error = lax.cond(
        jnp.isfinite(dispatches).any(),
        lambda n: jnp.where(converged, _standard_error(root, tilt, n), jnp.nan),
        lambda n: jnp.full_like(n, jnp.nan),
        dispatches,
    )
    tiny = jnp.finfo(divergence.dtype).tiny
    # Self-concordance: f - f* <= s^2 / v once the Newton step s / v is below 1/2.
    gap = root.slope**2 / jnp.maximum(root.variance, tiny)
    return CongestionFit(
        congestion=congestion,
        residual=jnp.where(known, jnp.maximum(divergence, 0), jnp.nan),
        minima=(known & (root.boundary == 0)).astype(jnp.int32),
        at_boundary=jnp.zeros_like(known),
        standard_error=error,
        gap=jnp.where(known, jnp.where(root.boundary == 0, gap, 0), jnp.nan),
        steps=root.steps,
        status=status,
    )


def _divergence(root: Root, tilt: Tilt) -> Float[Array, "*lane"]:
    """KL divergence of the load to the response at the root."""

    def term(direction, load, base):
        load = tilt.share * load
        logit = jnp.where(load > 0, base - root.theta * direction - root.log_total, 0)
        return (xlogy(load, load) - load * logit,)

    return sum_over_experts(term, 1, tilt, scaled_quality(tilt))[0]


def _divergence_at_infinity(tilt: Tilt) -> Float[Array, "*lane"]:
    """The same in the limit of congestion -infinity: among the experts of the largest load."""

    def term(direction, load, base):
        load = tilt.share * load
        inside = direction > 0.5 * tilt.top  # the others have no load: halfway to the mean is below
        cross = jnp.where(inside, xlogy(load, load) - load * base, 0)
        return cross, jnp.where(inside, load, 0), jnp.where(inside, jnp.exp(base), 0)

    cross, load, weight = sum_over_experts(term, 3, tilt, scaled_quality(tilt))
    return cross + load * jnp.log(weight)


def _standard_error(
    root: Root, tilt: Tilt, dispatches: Float[Array, "*lane"]
) -> Float[Array, "*lane"]:
    """(2), with loads in units of their range."""
    experts, per_range = tilt.load.shape[0], tilt.rate * tilt.unit

    def term(direction, load, base):
        load = tilt.share * load
        response = jnp.exp(base - root.theta * direction - root.log_total)
        moved = 2 * direction - per_range * (response - 1 / experts)
        moved = moved + root.theta * per_range * response * (direction - root.target)
        return load * moved, load * moved**2

    first, second = sum_over_experts(term, 2, tilt, scaled_quality(tilt))
    return tilt.unit / root.variance * jnp.sqrt((second - first**2) / dispatches)


def _condition(congestion, quality, load, temperature):
    """(1), in the units of the instance: 0 at the fit."""
    response = jax.nn.softmax((quality - congestion[None] * load) / temperature[None], axis=0)
    return (load * load).sum(0) / load.sum(0) - (response * load).sum(0)
