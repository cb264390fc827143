"""The load that an expert settles at, given how much it attracts.

An expert that would receive `exp(t)` without congestion receives `f`, the root of

    log f + (gamma/lambda) F(f) = t,                                                         (1)

increasing in `f` for every nondecreasing `F`, so the root is unique. For the linear cost it is a
Wright omega function; otherwise Newton's method in `log f`, kept inside a bracket.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mfgjax.equilibrium.logarithm import logarithm
from mfgjax.game.cost import Cost, Linear
from mfgjax.numerics.wright_omega import wright_omega


def settle(
    cost: Cost, ratio: Float[Array, ""], attraction: Float[Array, " experts"]
) -> tuple[Float[Array, " experts"], Float[Array, " experts"]]:
    """Roots `f` of (1) and their elasticity `c = (gamma/lambda) F'(f) f`.

    Args:
        cost: the shape `F`.
        ratio: `gamma/lambda`, >= 0.
        attraction: `t`, one per expert.

    Returns:
        `f` and `c`; `df/dt = f / (1 + c)`.
    """
    if isinstance(cost, Linear):
        floor = jnp.finfo(attraction.dtype).eps ** 1.5  # keeps log finite at zero congestion
        safe = jnp.maximum(ratio, floor)
        scaled = wright_omega(attraction + jnp.log(safe))
        load = scaled / safe
    else:
        load = jnp.exp(_bracketed(cost, ratio, attraction))
    return load, elasticity(cost, ratio, load)


def elasticity(cost: Cost, ratio, load: Float[Array, " experts"]) -> Float[Array, " experts"]:
    """`(gamma/lambda) F'(f) f`, with `f` kept off 0, where the slope of some costs is infinite."""
    off_zero = jnp.maximum(load, jnp.finfo(load.dtype).tiny)
    return ratio * cost.slope(off_zero) * off_zero


def _bracketed(cost: Cost, ratio, target):
    """`log f` by Newton's method with bisection whenever a step leaves the bracket."""
    eps = jnp.finfo(target.dtype).eps
    zero = jnp.zeros_like(target)
    top = jnp.log(cost.limit(zero)) - 4 * eps

    def excess(ell):
        """Left side of (1) less the right, and its derivative in `log f`."""
        load = jnp.exp(ell)
        value = ell + ratio * cost(load) - target
        return value, 1 + elasticity(cost, ratio, load)

    upper = jnp.minimum(target - ratio * cost(zero), top)
    probe = jnp.minimum(upper, jnp.minimum(top, 0) - 1)
    below = excess(probe)[0] <= 0
    lower = jnp.where(below, probe, target - ratio * cost(jnp.exp(probe)))
    upper = jnp.where(below, upper, probe)
    floor = 4 * eps * (1 + jnp.abs(target))

    def unfinished(state):
        _, _, _, moved, steps = state
        return (jnp.abs(moved) > floor).any() & (steps < 100)

    def step(state):
        ell, lower, upper, moved, steps = state
        value, slope = excess(ell)
        lower, upper = jnp.where(value < 0, ell, lower), jnp.where(value < 0, upper, ell)
        newton = ell - value / slope
        inside = (newton >= lower) & (newton <= upper)
        to = jnp.where(inside, newton, 0.5 * (lower + upper))
        active = jnp.abs(moved) > floor
        return jnp.where(active, to, ell), lower, upper, jnp.where(active, to - ell, 0), steps + 1

    # The left side is convex for convex F: Newton from above descends to the root, unless above is
    # a barrier, where steps are as small as the distance to it.
    start = jnp.where(below, upper, lower)
    start = jnp.where(jnp.isfinite(start) & ~jnp.isfinite(top), start, 0.5 * (lower + upper))
    start = jnp.clip(start, lower, upper)
    state = (start, lower, upper, jnp.full_like(target, jnp.inf), 0)
    return lax.while_loop(unfinished, step, state)[0]


def absorbed(cost: Cost, ratio, load: Float[Array, " experts"]) -> Float[Array, " experts"]:
    """`int_(-inf)^t f dt` of the load settled at: `f + (gamma/lambda)(F(f) f - int_0^f F)`."""
    return load + ratio * (cost(load) * load - cost.integral(load))


def log_shares(
    quality: Float[Array, "types experts"],
    log_weight: Float[Array, " types"],
    normaliser: Float[Array, " types"],
) -> tuple[Float[Array, " experts"], Float[Array, "types experts"]]:
    """Attraction of each expert over all types, and each type's share of it (sums to 1 over types).

    Args:
        quality: `q/lambda`.
        log_weight: log of the type weights.
        normaliser: log of each type's partition function `nu_k`.
    """
    pull = quality + (log_weight - normaliser)[:, None]
    if pull.shape[0] == 1:
        return pull[0], jnp.ones_like(pull)
    top = pull.max(0)
    raised = jnp.exp(pull - top[None, :])
    total = raised.sum(0)
    return top + logarithm(total), raised / total[None, :]
