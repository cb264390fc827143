"""Structured Newton's method for games with `congestion >= 0`, any nondecreasing cost, K types.

With `x = q/lambda` and `nu_k` the log partition function of type k, (1) of `mfgjax.game.game` says
that expert i holds the load `f_i` it settles at when it attracts

    t_i = log sum_k w_k exp(x^k_i - nu_k),          log f_i + (gamma/lambda) F(f_i) = t_i,    (1)

and that each type's fractions add up: `sum_i f_i s^k_i = w_k`, with `s^k_i` type k's share of
`exp(t_i)`. Those K equations are the gradient of a convex function of `nu`,

    Phi(nu) = sum_k w_k nu_k + sum_i int_(-inf)^(t_i) f dt,                                  (2)

so Newton's method with a line search converges from anywhere, whatever gamma >= 0, q and F. A step
costs O(M K^2) and solves a K x K system; the M-dimensional dual of the game is never formed. The
line search also accepts a step that halves the gradient: near the solution, changes in (2) are
below rounding and an objective test alone would stall.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.nn import logsumexp
from jaxtyping import Array, Float, Int

from mfgjax.equilibrium.attraction import absorbed, log_shares, settle
from mfgjax.equilibrium.elimination import eliminate
from mfgjax.equilibrium.explicit import STEPS, explicit_loads
from mfgjax.equilibrium.mirror import mirror_loads
from mfgjax.equilibrium.scaled import Scaled, net_quality
from mfgjax.game.cost import Linear

ARMIJO = 1e-4
NEAR = 0.1  # relative excess below which halving it counts as progress


class Point(NamedTuple):
    """A trial `nu` with everything that the next decision needs."""

    normaliser: Float[Array, " types"]
    load: Float[Array, " experts"]
    share: Float[Array, "types experts"]
    objective: Float[Array, ""]
    excess: Float[Array, " types"]  # sum_i f_i s^k_i / w_k - 1: minus the gradient over the weight
    step: Float[Array, " types"]  # the Newton step from here


def newton_loads(
    game: Scaled, tol, limit: Int[Array, ""], max_steps: int
) -> tuple[Float[Array, "types experts"], Int[Array, ""]]:
    """Dispatch fractions of each type, and the number of steps taken.

    Negative congestion is outside the theory: such a game goes on from its softmax by mirror
    descent, to one of its equilibria.
    """
    del max_steps
    rows, steps = _convex(game._replace(ratio=jnp.maximum(game.ratio, 0)), limit)
    more = jnp.where(game.ratio < 0, 100 * limit, 0)
    rows, further = mirror_loads(game, tol, more, rows)
    return rows, steps + further


def _convex(game: Scaled, limit):
    if not (isinstance(game.cost, Linear) and game.weight.shape[0] == 1):
        return _descend(game, limit, 0)
    load, done = explicit_loads(game.quality[0], game.ratio)

    def fall_back(state):
        # Depends on the state, or XLA would hoist the work out of a loop that rarely runs.
        quality = jnp.where(state[2], 0, game.quality)
        rows, steps = _descend(game._replace(quality=quality), limit, STEPS)
        return rows, steps, jnp.ones((), bool)

    # Runs at most once: under vmap a cond would run for every batch, needed or not.
    state = (load[None, :], jnp.asarray(STEPS), done)
    return lax.while_loop(lambda state: ~state[2], fall_back, state)[:2]


def _descend(game: Scaled, limit: Int[Array, ""], head: int):
    """The globally convergent iteration; `head` steps have been taken before it."""
    small = jnp.finfo(game.quality.dtype).eps ** 0.5  # one more step then reaches the last place
    even, sparse = _guesses(game)

    def unfinished(state):
        _, _, _, done, steps = state
        return ~done & (steps < limit)

    def advance(state):
        at, trial, scale, _, steps = state
        to = evaluate(game, trial)
        slope = -game.weight @ (at.excess * at.step)
        slope_there = -game.weight @ (to.excess * at.step)
        rounding = 8 * jnp.finfo(slope.dtype).eps * (1 + jnp.abs(at.objective))
        lower = to.objective <= at.objective + ARMIJO * scale * slope + rounding
        flatter = jnp.abs(to.excess).max() <= 0.5 * jnp.minimum(jnp.abs(at.excess).max(), NEAR)
        tiny = (scale > 0) & (scale * jnp.abs(at.step).max() <= small)
        accept = (lower & jnp.isfinite(to.step).all()) | flatter | tiny
        at = Point(*(jnp.where(accept, new, old) for new, old in zip(to, at, strict=True)))
        shorter = scale * jnp.clip(slope / (slope - slope_there), 0.1, 0.5)
        scale = jnp.where(accept | (scale == 0), 1, shorter).astype(scale.dtype)
        # The second guess is tried with scale 0: it replaces the first only if (2) is lower there.
        second = steps == head
        scale = jnp.where(second, 0, scale)
        trial = jnp.where(second, sparse, at.normaliser + scale * at.step)
        return at, trial, scale, tiny, steps + 1

    start = (_nowhere(game), even, jnp.zeros_like(game.ratio), jnp.zeros((), bool), head)
    at, _, _, _, steps = lax.while_loop(unfinished, advance, start)
    return at.share * at.load[None, :] / game.weight[:, None], jnp.asarray(steps)


def _nowhere(game: Scaled) -> Point:
    """A point that every evaluated one improves on."""
    types, experts = game.quality.shape
    like = lambda *shape: jnp.zeros(shape, game.quality.dtype)  # noqa: E731
    worst = jnp.full((), jnp.inf, game.quality.dtype)
    return Point(like(types), like(experts), 1 + like(types, experts), worst, *2 * [like(types)])


def evaluate(game: Scaled, normaliser: Float[Array, " types"]) -> Point:
    """Loads, objective (2), its gradient and the Newton step at `normaliser`."""
    attraction, share = log_shares(game.quality, jnp.log(game.weight), normaliser)
    load, elasticity = settle(game.cost, game.ratio, attraction)
    mass = share @ load
    objective = game.weight @ normaliser + absorbed(game.cost, game.ratio, load).sum()
    excess = mass / game.weight - 1
    # Hessian diag(mass) - sum_i f_i s_i s_i' c_i/(1 + c_i), stiffened: it fades at the root.
    damped = load * (elasticity / (1 + elasticity))
    coupling = (share * damped[None, :]) @ share.T
    coupling = coupling * (1 - jnp.eye(mass.shape[0], dtype=mass.dtype))
    row_sum = share @ (load / (1 + elasticity))
    own = (row_sum + coupling.sum(-1)) / jnp.maximum(mass, jnp.finfo(mass.dtype).tiny)
    best = net_quality(game, load).max(-1) - normaliser
    extra = game.weight * _secant(mass / game.weight, best) - mass
    row_sum = row_sum + jnp.where(mass > 0, own, 1) * extra
    step = eliminate(coupling, row_sum, game.weight * excess)
    return Point(normaliser, load, share, objective, excess, step)


def _secant(filled: Float[Array, " types"], best: Float[Array, " types"]):
    """Mass over weight, or its logarithmic mean with 1 where it is below 1.

    A type that holds too little has too high a `nu`: loads fall off exponentially there and the
    tangent points much too far. The logarithmic mean is the slope of that exponential's secant.
    `best` is the log of the type's largest fraction, which stands in when all have underflowed.
    """
    low = jnp.clip(filled, jnp.finfo(filled.dtype).tiny, 1)
    log_low = jnp.minimum(jnp.log(jnp.minimum(low, 0.7)), jnp.where(filled > 0, 0, best))
    mean = jnp.where(low < 0.7, (1 - low) / -log_low, 0.5 * (1 + low))
    return jnp.maximum(filled, mean)


def _guesses(game: Scaled) -> tuple[Float[Array, " types"], Float[Array, " types"]]:
    """`nu` at even prices, and at those of one Newton step of the dual from zero prices.

    The step from zero prices gives loads proportional to `pi/(1 + c pi)`, `pi` the softmax.
    """
    free = game.weight @ jnp.exp(game.quality - logsumexp(game.quality, axis=-1)[:, None])
    roof = game.cost.limit(free)
    even = jnp.minimum(jnp.full_like(free, 1 / free.shape[0]), 0.9 * roof)
    load = free / (1 + game.ratio * game.cost.slope(even) * free)
    load = jnp.minimum(load / load.sum(), 0.9 * roof)
    flat, near = (logsumexp(net_quality(game, at), axis=-1) for at in (even, load))
    return flat, near
