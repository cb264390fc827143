"""The load that an expert settles at, given how much it attracts.

An expert that would receive `exp(t)` without congestion receives `f`, the root of

    log f + (gamma/lambda) F(f) = t,                                                         (1)

increasing in `f` for every nondecreasing `F`, so the root is unique. For the linear cost it is a
Wright omega function. Otherwise it is found by Newton's method in `log f`, kept inside a bracket
that halves whenever the steps do not. No equilibrium has a load above 1: there `F` is continued by
`F(1) + F'(1) log f`, whose root is explicit, so that nothing overflows on the way.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.equilibrium.logarithm import logarithm
from mfgjax.equilibrium.loop import while_loop
from mfgjax.game.cost import Cost, Linear
from mfgjax.numerics.wright_omega import wright_omega

MOST_LOG_LOAD = 40  # no load of an equilibrium is above 1; trial loads need not overflow
INNER_STEPS = 200  # each halves the step or the bracket at least every second time


class Settled(NamedTuple):
    """Loads `f` of (1), their prices `(gamma/lambda) F(f)` and elasticities `c` of the prices.

    `df/dt = f / (1 + c)`.
    """

    load: Float[Array, " experts"]
    price: Float[Array, " experts"]
    elasticity: Float[Array, " experts"]


def settle(
    cost: Cost, ratio: Float[Array, "*expert"], attraction: Float[Array, " experts"]
) -> Settled:
    """Roots of (1).

    Args:
        cost: the shape `F`.
        ratio: `gamma/lambda`, >= 0, of all experts or of each.
        attraction: `t`, one per expert.
    """
    if isinstance(cost, Linear):
        floor = jnp.finfo(attraction.dtype).eps ** 1.5  # keeps log finite at zero congestion
        safe = jnp.maximum(ratio, floor)
        price = wright_omega(attraction + jnp.log(safe))
        return Settled(price / safe, price, price)
    log_load = _log_root(cost, ratio, attraction)
    load = jnp.exp(log_load)
    steep = elasticity(cost, ratio, jnp.minimum(load, 1))
    return Settled(load, attraction - log_load, steep)


def elasticity(cost: Cost, ratio, load: Float[Array, " experts"]) -> Float[Array, " experts"]:
    """`(gamma/lambda) F'(f) f`, with `f` kept off 0, where the slope of some costs is infinite."""
    off_zero = jnp.maximum(load, jnp.finfo(load.dtype).tiny)
    return ratio * cost.slope(off_zero) * off_zero


def _log_root(cost: Cost, ratio, target: Float[Array, " experts"]) -> Float[Array, " experts"]:
    """`log f` of (1)."""
    eps = jnp.finfo(target.dtype).eps
    one = jnp.ones_like(target)
    # A load never reaches the limit of its cost, nor, below 1, the last place under it.
    top = jnp.minimum(jnp.log(cost.limit(one)) - 8 * eps, 0)
    open_end = cost.limit(one) > 1
    full = ratio * cost(jnp.where(open_end, one, 0.5 * cost.limit(one)))
    steep_full = elasticity(cost, ratio, jnp.where(open_end, one, 0.5 * cost.limit(one)))
    beyond = open_end & (target >= full)
    explicit = jnp.minimum((target - full) / (1 + steep_full), MOST_LOG_LOAD)
    sought = jnp.where(beyond, full, target)

    def excess(ell):
        """Left side of (1) less the right, its derivative in `log f`, and the price."""
        load = jnp.exp(ell)
        price = ratio * cost(load)
        return ell + price - sought, 1 + elasticity(cost, ratio, load), price

    # Below the probe by what its price exceeds the target, or between it and the top.
    probe = top - 1
    value, _, price = excess(probe)
    lower = jnp.where(value <= 0, probe, sought - price)
    upper = jnp.where(value <= 0, top, probe)

    def unfinished(state):
        return (~state[4]).any() & (state[5] < INNER_STEPS)

    def step(state):
        ell, lower, upper, last, done, steps = state
        value, slope, price = excess(ell)
        lower, upper = jnp.where(value < 0, ell, lower), jnp.where(value < 0, upper, ell)
        away = sought - ell
        # Where the price rules, its logarithm is nearly straight in log f: Newton's method on it.
        rules = (price > 1) & (away > 0)
        ratio_of = jnp.where(rules, price / jnp.where(rules, away, 1), 1)
        steeper = (slope - 1) / jnp.where(rules, price, 1) + 1 / jnp.where(rules, away, 1)
        by_log = -jnp.log(ratio_of) / steeper
        move = jnp.where(rules, by_log, -value / slope)
        to = ell + move
        good = (to >= lower) & (to <= upper) & (jnp.abs(move) <= 0.5 * jnp.abs(last))
        to = jnp.where(good, to, 0.5 * (lower + upper))
        # What rounding of the left side leaves open in log f.
        floor = 2 * eps * (1 + jnp.abs(ell) + (jnp.abs(sought) + price) / slope)
        to = jnp.where(done, ell, to)
        return to, lower, upper, to - ell, done | (jnp.abs(to - ell) <= floor), steps + 1

    # Newton from above descends to the root of a convex left side, unless above is a barrier.
    start = jnp.where(open_end, upper, 0.5 * (lower + upper))
    far = jnp.full_like(target, jnp.inf)
    state = (start, lower, upper, far, beyond, 0)
    return jnp.where(
        beyond, explicit, while_loop(unfinished, step, state, (cost, ratio, target))[0]
    )


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
