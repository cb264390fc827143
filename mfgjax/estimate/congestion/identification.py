"""Can congestion and temperature be told apart? Usually not, and this says how far from it.

With both free, `load ~ softmax((quality - gamma load)/lambda)` is an exponential family in
`(1/lambda, gamma/lambda)` with statistics `(quality, -load)`. Its information matrix is their
covariance under the response. Where quality is nearly a linear function of load (any equilibrium
with a small spread: `quality = lambda log load + gamma load`, and log is nearly linear) the matrix
is nearly singular: along its flat direction the data say nothing.

The log-likelihood is concave, and its third derivative along a direction is at most its second times
the range r of the statistics there, so Newton steps shortened to `log(1 + r) / r` of their length
rise from any start (Sun and Tran-Dinh 2019, "Generalized self-concordant functions", Theorem 3 with
nu = 2). They are taken until r, the largest change of a log ratio of loads that is left, is rounding.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


class JointFit(eqx.Module):
    """A pair with the evidence for it.

    Attributes:
        congestion, temperature: the pair; NaN where it is not identified.
        condition: condition number of the information matrix, scaled to unit diagonal; 1 is best.
        flat_direction: change of (congestion, temperature), per unit of temperature, that the load
            hardly notices; at the pair found.
        standard_error: of (congestion, temperature) from `dispatches` independent draws.
        identified: whether the maximum was reached and both standard errors are below `precision`
            of the pair.
    """

    congestion: Float[Array, "*batch"]
    temperature: Float[Array, "*batch"]
    condition: Float[Array, "*batch"]
    flat_direction: Float[Array, "*batch 2"]
    standard_error: Float[Array, "*batch 2"]
    identified: Bool[Array, "*batch"]


@jax.jit
def fit_jointly(
    quality: Float[Array, " expert"],
    load: Float[Array, " expert"],
    dispatches: float | Float[Array, ""],
    *,
    precision: float = 0.25,
    max_steps: int = 300,
) -> JointFit:
    """Fit (congestion, temperature) of one instance, or say that there is no pair to report.

    Batch with `jax.vmap`. Carries no derivative.

    Args:
        quality: expert qualities, in known units: known only up to scale, no pair exists at all.
        load: dispatch fractions.
        dispatches: independent draws behind the load: how noisy it is.
        precision: largest relative standard error at which a pair is reported.
        max_steps: bound on Newton steps; what needs more is not identified. Traced.
    """
    quality, load = lax.stop_gradient((quality, load))
    features = jnp.stack([quality - quality.mean(), load.mean() - load])
    scale = jnp.sqrt((features**2).mean(-1))
    safe = jnp.where(scale > 0, scale, 1)
    features = features / safe[:, None]

    def information(point):
        response = jax.nn.softmax(point @ features)
        centred = features - (features @ response)[:, None]
        return response, (centred * response[None]) @ centred.T

    def propose(point):
        response, matrix = information(point)
        gradient = features @ (load - response)
        ridge = 1e-12 * jnp.trace(matrix) * jnp.eye(2, dtype=matrix.dtype)
        move = jnp.linalg.solve(matrix + ridge, gradient)
        reach = jnp.ptp(move @ features)
        # NaN (all qualities or all loads equal) ends the search, and is no maximum.
        return move, reach

    def unfinished(state):
        _, _, reach, steps = state
        return (reach > tolerance) & (steps < max_steps)

    def step(state):
        point, move, reach, steps = state
        point = point + move * (jnp.log1p(reach) / reach)
        return point, *propose(point), steps + 1

    # The step that ends the search is taken as well: it squares what is left.
    tolerance = jnp.finfo(features.dtype).eps ** 0.5
    start = jnp.zeros(2, features.dtype).at[0].set(scale[0])
    first = (start, *propose(start), jnp.zeros((), jnp.int32))
    point, move, reach, _ = lax.while_loop(unfinished, step, first)
    reached = reach <= tolerance
    point = point + jnp.where(reached, move, 0)
    _, matrix = information(point)
    diagonal = jnp.sqrt(jnp.diag(matrix))
    diagonal = jnp.where(diagonal > 0, diagonal, 1)
    correlation = matrix / diagonal[:, None] / diagonal[None, :]
    values, _ = jnp.linalg.eigh(correlation)
    condition = values[1] / jnp.maximum(values[0], jnp.finfo(values.dtype).tiny)

    inverse, tilt = point / safe
    temperature, congestion = 1 / inverse, tilt / inverse
    # Change of variables from the natural parameters to (congestion, temperature).
    jacobian = jnp.stack(
        [
            jnp.stack([-tilt / inverse**2, 1 / inverse]) / safe,
            jnp.stack([-1 / inverse**2, jnp.zeros_like(inverse)]) / safe,
        ]
    )
    covariance = jacobian @ jnp.linalg.pinv(matrix) @ jacobian.T / dispatches
    error = jnp.sqrt(jnp.diag(covariance))
    flat = covariance[:, 1] / covariance[1, 1]
    size = jnp.stack([jnp.abs(congestion), jnp.abs(temperature)])
    known = (error < precision * size).all() & (inverse > 0) & (scale > 0).all()
    known = known & reached & (condition < 0.1 / jnp.finfo(values.dtype).eps)
    return JointFit(
        congestion=jnp.where(known, congestion, jnp.nan),
        temperature=jnp.where(known, temperature, jnp.nan),
        condition=condition,
        flat_direction=flat,
        standard_error=error,
        identified=known,
    )
