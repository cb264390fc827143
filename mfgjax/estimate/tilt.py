"""The best response as an exponential tilt of softmax(quality), in scaled units.

With `u = quality / temperature` and `x = (load - mean load) / range of load`, the best response is

    phi_theta = softmax(u - theta x),      theta = congestion * range / temperature.        (1)

`x` spans exactly 1, so theta, the mean of x and its variance are all of order one whatever the
number of experts: the same tolerances serve M = 2 and M = 512, in float32 and float64.

Layout: experts lead, instances ("lanes") trail, and every sum over experts is an unrolled loop of
elementwise work on lanes. An instance never meets another one, results do not depend on the batch,
and on CPU the compiler keeps the sums in registers: measured 4 to 5 times the speed of a reduction
over a trailing expert axis, which is what `jax.vmap` of the one-instance code becomes.
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

LOAD_SUM_TOLERANCE = 1e-3
"""A load further than this from summing to 1 is refused: counts over tokens sum to top_k, not 1."""

_BLOCK = 16  # experts unrolled into one kernel: more compile slower and run hardly faster


class Tilt(eqx.Module):
    """Instances of (1), experts padded to whole blocks (base -inf, so that they get nothing).

    Attributes:
        base: `u`, shifted so that its maximum is 0.
        direction: `x`, mean 0 over experts and range 1.
        load: the observed load, summing to 1.
        unit: congestion per unit of theta, `temperature / range`.
        bottom, top: smallest and largest x.
        middle: half the range of `u`: keeps the exponentials within range.
        valid: inputs are finite and representable, the load is a distribution, temperature > 0.
        identified: the load is not uniform.
    """

    base: Float[Array, " expert *lane"]
    direction: Float[Array, " expert *lane"]
    load: Float[Array, " expert *lane"]
    unit: Float[Array, "*lane"]
    bottom: Float[Array, "*lane"]
    top: Float[Array, "*lane"]
    middle: Float[Array, "*lane"]
    valid: Bool[Array, "*lane"]
    identified: Bool[Array, "*lane"]


def make_tilt(
    quality: Float[Array, " expert *lane"],
    load: Float[Array, " expert *lane"],
    temperature: Float[Array, "*lane"],
) -> Tilt:
    """Scale instances to (1). Invalid or uniform instances get harmless finite numbers."""
    experts = load.shape[0]
    total, most, least, best, worst = _extremes(quality, load)
    # max and min hand on NaN and infinity, so the extremes speak for all experts.
    valid = jnp.isfinite(best) & jnp.isfinite(worst) & jnp.isfinite(total)
    valid = valid & (least >= 0) & (jnp.abs(total - 1) < LOAD_SUM_TOLERANCE)
    valid = valid & (temperature > 0) & jnp.isfinite(temperature)
    # exp must neither overflow nor underflow over the range of u; 150 is for float32.
    limit = 150 if load.dtype == jnp.float32 else 1200
    valid = valid & ((best - worst) < limit * temperature)
    spread = most - least
    # Counts that differ by rounding only are equal counts.
    identified = spread > 8 * jnp.finfo(load.dtype).eps * most
    usable = valid & identified
    safe_spread = jnp.where(usable, spread, 1)
    safe_total = jnp.where(usable, total, 1)
    safe_temperature = jnp.where(usable, temperature, 1)
    mean = safe_total / experts
    safe_load = jnp.where(usable[None], load, 1 / experts)
    base = jnp.where(usable[None], (quality - best[None]) / safe_temperature[None], 0)
    direction = (safe_load - mean[None]) / safe_spread[None]
    share = safe_load / safe_total[None]
    missing = -experts % min(_BLOCK, _power_of_two(experts))
    if missing:
        fill = [(0, missing), *[(0, 0)] * (load.ndim - 1)]
        base = jnp.pad(base, fill, constant_values=-jnp.inf)
        direction, share = jnp.pad(direction, fill), jnp.pad(share, fill)
    return Tilt(
        base=base,
        direction=direction,
        load=share,
        unit=safe_temperature / safe_spread,
        bottom=jnp.where(usable, (least - mean) / safe_spread, 0),
        top=jnp.where(usable, (most - mean) / safe_spread, 0),
        middle=jnp.where(usable, (worst - best) / safe_temperature, 0) / 2,
        valid=valid,
        identified=identified,
    )


def _extremes(quality, load):
    """Sum, largest and smallest load, largest and smallest quality, in one pass."""

    def take(index, state):
        total, most, least, best, worst = state
        q, mu = quality[index], load[index]
        return (
            total + mu,
            jnp.maximum(most, mu),
            jnp.minimum(least, mu),
            jnp.maximum(best, q),
            jnp.minimum(worst, q),
        )

    experts = load.shape[0]
    block = min(_BLOCK, experts)
    state = (jnp.zeros_like(load[0]), load[0], load[0], quality[0], quality[0])

    def take_block(number, state):
        for offset in range(block):
            state = take(number * block + offset, state)
        return state

    whole = experts // block
    state = take_block(0, state) if whole == 1 else lax.fori_loop(0, whole, take_block, state)
    for index in range(whole * block, experts):
        state = take(index, state)
    return state


def log_weight_shift(theta: Float[Array, "*lane"], tilt: Tilt) -> Float[Array, "*lane"]:
    """A shift within half the range of `u` of the largest logit: no pass over experts needed.

    The largest logit lies between `min u` and 0 above `-theta x` at the end that theta favours.
    """
    return tilt.middle - theta * jnp.where(theta > 0, tilt.bottom, tilt.top)


def sum_over_experts(
    term: Callable[..., tuple], count: int, tilt: Tilt
) -> tuple[Float[Array, "*lane"], ...]:
    """Sum `count` terms over experts; `term(base, direction, load)` is given one expert's lanes."""
    experts = tilt.load.shape[0]
    block = min(_BLOCK, experts)
    zero = jnp.zeros_like(tilt.unit)

    def add_block(index, sums):
        for offset in range(block):
            expert = index * block + offset
            terms = term(tilt.base[expert], tilt.direction[expert], tilt.load[expert])
            sums = tuple(old + new for old, new in zip(sums, terms, strict=True))
        return sums

    sums = (zero,) * count
    if experts == block:
        return add_block(0, sums)
    return lax.fori_loop(0, experts // block, add_block, sums)


def tilted_moments(
    theta: Float[Array, "*lane"], tilt: Tilt
) -> tuple[Float[Array, "*lane"], Float[Array, "*lane"], Float[Array, "*lane"]]:
    """Mean and variance of x under `phi_theta`, and log of the sum of `exp(u - theta x)`."""
    shift = log_weight_shift(theta, tilt)

    def term(base, direction, load):
        del load
        weight = jnp.exp(base - theta * direction - shift)
        first = weight * direction
        return weight, first, first * direction

    total, first, second = sum_over_experts(term, 3, tilt)
    mean = first / total
    return mean, jnp.maximum(second / total - mean**2, 0), jnp.log(total) + shift


def _power_of_two(value: int) -> int:
    return 1 << max(value - 1, 0).bit_length()
