"""The best response as an exponential tilt of softmax(quality), in scaled units.

With `u = quality / temperature` and `x = (load - mean load) / range of load`, the best response is

    phi_theta = softmax(u - theta x),      theta = congestion * range / temperature.        (1)

`x` spans exactly 1, so theta, the mean of x and its variance are all of order one whatever the
number of experts: the same tolerances serve M = 2 and M = 512, in float32 and float64.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LOAD_SUM_TOLERANCE = 1e-3
"""A load further than this from summing to 1 is refused: counts over tokens sum to top_k, not 1."""


class Tilt(eqx.Module):
    """One instance of (1).

    Attributes:
        base: `u`, shifted so that its maximum is 0.
        direction: `x`, mean 0 over experts and range 1.
        load: the observed load, summing to 1.
        unit: congestion per unit of theta, `temperature / range`.
        valid: inputs are finite, the load is a distribution, the temperature is positive.
        identified: the load is not uniform.
    """

    base: Float[Array, " expert"]
    direction: Float[Array, " expert"]
    load: Float[Array, " expert"]
    unit: Float[Array, ""]
    valid: Bool[Array, ""]
    identified: Bool[Array, ""]


def make_tilt(
    quality: Float[Array, " expert"], load: Float[Array, " expert"], temperature: Float[Array, ""]
) -> Tilt:
    """Scale one instance to (1). Invalid or uniform instances get harmless finite numbers."""
    total = load.sum()
    finite = jnp.isfinite(quality).all() & jnp.isfinite(load).all()
    valid = finite & (load >= 0).all() & (jnp.abs(total - 1) < LOAD_SUM_TOLERANCE)
    valid = valid & (temperature > 0) & jnp.isfinite(temperature)
    spread = load.max() - load.min()
    # Counts that differ by rounding only are equal counts.
    identified = spread > 8 * jnp.finfo(load.dtype).eps * load.max()
    usable = valid & identified
    safe_load = jnp.where(usable, load, 1 / load.size)
    safe_spread = jnp.where(usable, spread, 1)
    safe_temperature = jnp.where(usable, temperature, 1)
    base = jnp.where(usable, quality, 0) / safe_temperature
    return Tilt(
        base=base - base.max(),
        direction=(safe_load - safe_load.mean()) / safe_spread,
        load=safe_load / safe_load.sum(),
        unit=safe_temperature / safe_spread,
        valid=valid,
        identified=identified,
    )


def tilted_response(theta: Float[Array, ""], tilt: Tilt) -> Float[Array, " expert"]:
    """`phi_theta` of (1), sums to 1."""
    logits = tilt.base - theta * tilt.direction
    weight = jnp.exp(logits - logits.max())
    return weight / weight.sum()
