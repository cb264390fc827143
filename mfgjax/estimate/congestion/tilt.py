"""The best response as an exponential tilt of softmax(quality), in scaled units.

With `u = quality / temperature` and `x = (load - mean load) / range of load`, the best response is

    phi_theta = softmax(u - theta x),      theta = congestion * range / temperature.        (1)

`x` spans exactly 1, so theta, the mean of x and its variance are all of order one whatever the
number of experts: the same tolerances serve M = 2 and M = 512, in float32 and float64.

Layout: experts lead, instances ("lanes") trail. An instance never meets another one, and results do
not depend on the batch. The weights `exp(u - theta x)` of one theta are computed once and stored;
every sum over experts is an unrolled loop of elementwise work on lanes that reads them back. (XLA
makes one kernel of each sum and would compute the weights again in each: on CPU that was 4 times
slower, and a reduction over a trailing expert axis slower still.)
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from mfgjax.numerics.exponential import LOG2_E, exp2

LOAD_SUM_TOLERANCE = 1e-3
"""A load further than this from summing to 1 is refused: counts over tokens sum to top_k, not 1."""

_BLOCK = 4  # experts unrolled into one kernel: 8 and 16 run no faster, and compile slower


class Tilt(eqx.Module):
    """Instances of (1). Numbers of an unusable instance are harmless, its arrays are as given.

    Attributes:
        quality: as given; `u = rate (quality - best)`, so that its maximum is 0.
        direction: `x`, mean 0 over experts and range 1.
        load: as given; `share load` sums to 1.
        unit: congestion per unit of theta, `temperature / range`.
        bottom, top: smallest and largest x.
        middle: half the range of `u`, negative: keeps the exponentials within range.
        valid: inputs are finite and representable, the load is a distribution, temperature > 0.
        identified: the load is not uniform.
    """

    quality: Float[Array, " expert *lane"]
    best: Float[Array, "*lane"]
    rate: Float[Array, "*lane"]
    direction: Float[Array, " expert *lane"]
    load: Float[Array, " expert *lane"]
    share: Float[Array, "*lane"]
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
    """Scale instances to (1)."""
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
    spread = jnp.where(usable, spread, 1)
    temperature = jnp.where(usable, temperature, 1)
    total = jnp.where(usable, total, 1)
    mean = total / experts
    scale = 1 / spread
    return Tilt(
        quality=quality,
        best=best,
        rate=1 / temperature,
        direction=scale[None] * (load - mean[None]),
        load=load,
        share=1 / total,
        unit=temperature / spread,
        bottom=jnp.where(usable, (least - mean) / spread, 0),
        top=jnp.where(usable, (most - mean) / spread, 0),
        middle=jnp.where(usable, (worst - best) / temperature, 0) / 2,
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

    start = (jnp.zeros_like(load[0]), load[0], load[0], quality[0], quality[0])
    return _over_experts(take, load.shape[0], start)


def _over_experts(visit, experts: int, state):
    """`state = visit(index, state)` for every expert: a loop over unrolled blocks.

    At least two turns, and the loop last: XLA computes what is not behind a loop again for every
    expert in whatever reads it.
    """
    block = min(_BLOCK, experts // 2)
    turns = experts // block
    rest = experts - turns * block

    def visit_block(number, state):
        for offset in range(block):
            state = visit(rest + number * block + offset, state)
        return state

    for index in range(rest):
        state = visit(index, state)
    return lax.fori_loop(0, turns, visit_block, state)


def sum_over_experts(
    term: Callable[..., tuple], count: int, tilt: Tilt, stored: Float[Array, " expert *lane"]
) -> tuple[Float[Array, "*lane"], ...]:
    """Sum `count` terms over experts; `term(x, load, stored)` is given one expert's lanes."""

    def add(index, sums):
        terms = term(tilt.direction[index], tilt.load[index], stored[index])
        return tuple(old + new for old, new in zip(sums, terms, strict=True))

    zero = jnp.zeros_like(tilt.unit)
    return _over_experts(add, tilt.load.shape[0], (zero,) * count)


def scaled_quality(tilt: Tilt) -> Float[Array, " expert *lane"]:
    """`u` of (1), largest 0."""
    return tilt.rate[None] * (tilt.quality - tilt.best[None])


def tilted_weights(
    theta: Float[Array, "*lane"], tilt: Tilt
) -> tuple[Float[Array, " expert *lane"], Float[Array, "*lane"]]:
    """`exp(u - theta x - shift)`, stored; and the shift.

    The shift is within half the range of `u` of the largest logit, which lies between `min u` and 0
    above `-theta x` at the end that theta favours: no pass over experts is needed to find it.
    """
    shift = tilt.middle - theta * jnp.where(theta > 0, tilt.bottom, tilt.top)
    power = scaled_quality(tilt) - (theta[None] * tilt.direction + shift[None])
    return exp2(LOG2_E * power), shift


def tilted_moments(theta: Float[Array, "*lane"], tilt: Tilt) -> tuple[Float[Array, "*lane"], ...]:
    """Mean, variance, third central moment of x under `phi_theta`; log of sum exp(u - theta x)."""
    weights, shift = tilted_weights(theta, tilt)

    def term(direction, load, weight):
        del load
        first = weight * direction
        second = first * direction
        return weight, first, second, second * direction

    total, first, second, third = sum_over_experts(term, 4, tilt, weights)
    mean, square, cube = first / total, second / total, third / total
    variance = jnp.maximum(square - mean**2, 0)
    skew = cube - mean * (3 * variance + mean**2)
    return mean, variance, skew, jnp.log(total) + shift
