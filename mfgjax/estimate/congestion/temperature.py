"""Temperature-scaled softmax, the rival of the game: `load ~ softmax(quality / T)`, T fitted.

Maximum likelihood in 1/T is convex; it is the tilt of `tilt.py` along quality instead of load:

    sum_i load_i quality_i = sum_i softmax(quality / T)_i quality_i.                         (1)

The right rises in 1/T from the smallest to the largest quality, so a finite 1/T exists if and only if
the left lies strictly between: unless only experts of the best quality have a load, or only of the worst.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfgjax.estimate.congestion.tilt import make_tilt
from mfgjax.estimate.congestion.tilt_root import slope_tolerance, solve_theta
from mfgjax.numerics.implicit import attach_root
from mfgjax.numerics.status import Status, repr_with_words


class TemperatureFit(eqx.Module):
    """A fitted temperature per instance.

    Attributes:
        temperature: T; negative where loads fall with quality, infinite where they do not depend,
            0 where `UNBOUNDED`.
        inverse: 1/T, which is what is well behaved; infinite, with its sign, where `UNBOUNDED`.
        residual: L1 distance of the load to `softmax(quality / T)`, or to its limit.
        status: a `Status`; `UNIDENTIFIED` where all qualities are equal, `UNBOUNDED` where, to
            rounding, only experts of the best (or of the worst) quality have a load.
    """

    temperature: Float[Array, "*batch"]
    inverse: Float[Array, "*batch"]
    residual: Float[Array, "*batch"]
    status: Int[Array, "*batch"]

    def __repr__(self) -> str:
        return repr_with_words(self, Status)


@jax.jit
def fit_temperature(
    quality: Float[Array, "*batch expert"], load: Float[Array, "*batch expert"]
) -> TemperatureFit:
    """Fit T for each instance. Jit-ready; values never raise, read `status`.

    Differentiable to any order in both modes, in quality and load (implicit function theorem on (1));
    NaN derivative where the fit did not converge, and no derivative where `residual` has a kink.
    """
    quality, load = jnp.moveaxis(quality, -1, 0), jnp.moveaxis(load, -1, 0)
    given, quality, load = (quality, load), *jax.lax.stop_gradient((quality, load))
    # `make_tilt` wants a distribution to tilt along: quality, shifted and scaled to sum to 1.
    shifted = quality - quality.min(0, keepdims=True)
    total = shifted.sum(0)
    share = jnp.where(total[None] > 0, shifted / jnp.where(total > 0, total, 1)[None], 1)
    share = jnp.where(total[None] > 0, share, 1 / quality.shape[0])
    tilt = make_tilt(jnp.zeros_like(load), share, jnp.ones_like(total))
    checked = make_tilt(quality, load, jnp.ones_like(total))
    # Tilted from the uniform distribution: u is 0.
    along = eqx.tree_at(lambda t: (t.load, t.share), tilt, (checked.load, checked.share))
    root = solve_theta(along)
    done = jnp.abs(root.slope) <= slope_tolerance(load.dtype)
    status = jnp.where(done, Status.CONVERGED, Status.STEP_LIMIT)
    status = jnp.where(root.boundary == 0, status, Status.UNBOUNDED)
    status = jnp.where(tilt.identified, status, Status.UNIDENTIFIED)
    status = jnp.where(checked.valid, status, Status.BAD_INPUT).astype(jnp.int32)
    converged = status == Status.CONVERGED

    unbounded = status == Status.UNBOUNDED
    found = -root.theta * tilt.unit / jnp.where(total > 0, total, 1)
    found = jnp.where(unbounded, jnp.where(root.boundary > 0, jnp.inf, -jnp.inf), found)
    found = jnp.where(tilt.identified & checked.valid, found, jnp.nan)
    inverse = attach_root(_condition, found, given, converged)

    favoured = jnp.where(root.boundary > 0, quality.max(0), quality.min(0))
    favoured = (quality == favoured[None]).astype(load.dtype)
    # All qualities equal: the response is uniform at every temperature.
    finite = jnp.where(unbounded | ~tilt.identified, 0, inverse)
    response = jax.nn.softmax(finite[None] * given[0], axis=0)
    response = jnp.where(unbounded[None], favoured / favoured.sum(0)[None], response)
    distance = jnp.abs(response - given[1] / given[1].sum(0)[None]).sum(0)
    return TemperatureFit(
        temperature=1 / inverse,
        inverse=inverse,
        residual=jnp.where(checked.valid, distance, jnp.nan),
        status=status,
    )


def _condition(inverse, quality, load):
    """Right minus left of (1)."""
    response = jax.nn.softmax(inverse[None] * quality, axis=0)
    return ((response - load / load.sum(0)[None]) * quality).sum(0)
