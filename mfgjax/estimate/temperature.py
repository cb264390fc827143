"""Temperature-scaled softmax, the rival of the game: `load ~ softmax(quality / T)`, T fitted.

Maximum likelihood in 1/T is convex; it is the tilt of `tilt.py` along quality instead of load.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfgjax.estimate.fit import FitStatus
from mfgjax.estimate.likelihood import solve_theta
from mfgjax.estimate.tilt import make_tilt


class TemperatureFit(eqx.Module):
    """A fitted temperature per instance.

    Attributes:
        temperature: T; negative where loads fall with quality, infinite where they do not depend.
        inverse: 1/T, which is what is well behaved.
        residual: L1 distance of the load to `softmax(quality / T)`.
        status: a `FitStatus`; `UNIDENTIFIED` where all qualities are equal.
    """

    temperature: Float[Array, "*batch"]
    inverse: Float[Array, "*batch"]
    residual: Float[Array, "*batch"]
    status: Int[Array, "*batch"]


def fit_temperature(
    quality: Float[Array, "*batch expert"], load: Float[Array, "*batch expert"]
) -> TemperatureFit:
    """Fit T for each instance. Jit-ready; values never raise, read `status`."""
    quality, load = jnp.moveaxis(quality, -1, 0), jnp.moveaxis(load, -1, 0)
    # `make_tilt` wants a distribution to tilt along: quality, shifted and scaled to sum to 1.
    shifted = quality - quality.min(0, keepdims=True)
    total = shifted.sum(0)
    share = jnp.where(total[None] > 0, shifted / jnp.where(total > 0, total, 1)[None], 1)
    share = jnp.where(total[None] > 0, share, 1 / quality.shape[0])
    tilt = make_tilt(jnp.zeros_like(load), share, jnp.ones_like(total))
    checked = make_tilt(quality, load, jnp.ones_like(total))
    along = eqx.tree_at(lambda t: (t.load, t.share), tilt, (checked.load, checked.share))
    theta, slope, _, log_total, _ = solve_theta(along, 64)
    # Tilted from the uniform distribution: u is 0.
    response = jnp.exp(-theta[None] * along.direction - log_total[None])
    inverse = -theta * tilt.unit / jnp.where(total > 0, total, 1)
    done = jnp.abs(slope) <= 8 * jnp.finfo(load.dtype).eps
    status = jnp.where(done, FitStatus.CONVERGED, FitStatus.MAX_STEPS)
    status = jnp.where(tilt.identified, status, FitStatus.UNIDENTIFIED)
    status = jnp.where(checked.valid, status, FitStatus.BAD_INPUT).astype(jnp.int32)
    inverse = jnp.where(tilt.identified & checked.valid, inverse, jnp.nan)
    return TemperatureFit(
        temperature=1 / inverse,
        inverse=inverse,
        residual=jnp.abs(response - along.share[None] * along.load).sum(0),
        status=status,
    )
