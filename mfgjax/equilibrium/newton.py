"""Structured Newton's method for games with `congestion >= 0`, any nondecreasing cost, K types.

With `x = q/lambda` and `nu_k` the log partition function of type k, (1) of `mfgjax.game.game` says
that expert i holds the load `f_i` it settles at when it attracts

    t_i = log sum_k w_k exp(x^k_i - nu_k),          log f_i + (gamma/lambda) F(f_i) = t_i,    (1)

and that each type's fractions add up, `m_k = sum_i f_i s^k_i / w_k = 1`, with `s^k_i` type k's share
of `exp(t_i)`. At the prices of (1), type k's own partition function is `T(nu)_k = nu_k + log m_k`. `T`
rises with `nu`, by less than a common shift: it contracts in the largest norm, so the solution is
unique, and with `u^k_i = f_i s^k_i / (w_k m_k)`, `c_i` the price's elasticity,

    -d log m_k / d nu_l = delta_kl - sum_i u^k_i s^l_i c_i / (1 + c_i)                        (2)

is an M-matrix with row sums `sum_i u^k_i / (1 + c_i) > 0`. A Newton step on `log m` therefore shrinks
every `|log m_k|` at first; a line search on `sum_k w_k |log m_k|` converges from anywhere, whatever
gamma >= 0, q, F and types [derived]. A step costs O(M K^2) and solves a K x K system.

At low temperatures loads are staircases of prices, on which steps are short: a game of several
types is then solved at a higher temperature first, and followed down. From a load near the answer
neither is needed: a caller's is taken where a few steps from it end in a solution.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.nn import logsumexp, softmax
from jaxtyping import Array, Float, Int

from mfgjax.equilibrium.attraction import elasticity, log_shares, settle
from mfgjax.equilibrium.derivative import load_change
from mfgjax.equilibrium.explicit import STEPS, explicit_loads
from mfgjax.equilibrium.loop import where_needed, while_loop
from mfgjax.equilibrium.mirror import mirror_loads
from mfgjax.equilibrium.scaled import (
    LARGEST_FLOOR,
    Scaled,
    mean_load,
    net_quality,
    response,
    rounding_floor,
)
from mfgjax.equilibrium.type_system import eliminate
from mfgjax.game.cost import Linear

ARMIJO = 1e-4
SMOOTH = 10  # spread of q/lambda up to which games of several types are solved as they are
COOLING = 3
WARM = 0.01  # mean |log m| from which the next lower temperature is tried
NEAR = 0.1  # mean |log m|, and change of the loads by its step, up to which a start is tried
FEW = 4  # steps from a start


class Point(NamedTuple):
    """A trial `nu` with everything that the next decision needs."""

    level: Float[Array, ""]  # nu is level + apart; the shares, which see only apart, stay exact
    apart: Float[Array, " types"]
    rows: Float[Array, "types experts"]  # u^k
    log_mass: Float[Array, " types"]
    step: Float[Array, " types"]  # the Newton step from here
    change: Float[Array, ""]  # of the loads by that step, L1, largest over types, to first order


def newton_loads(
    game: Scaled,
    tol,
    limit: Int[Array, ""],
    max_steps: int,
    start: Float[Array, " experts"] | None = None,
) -> tuple[Float[Array, "types experts"], Int[Array, ""]]:
    """Dispatch fractions of each type, and the number of steps taken.

    Negative congestion is outside the theory: such a game goes on from its softmax by mirror
    descent, to one of its equilibria, whatever the `start`.
    """
    del max_steps
    convex, negative = game._replace(ratio=jnp.maximum(game.ratio, 0)), game.ratio < 0
    explicit = isinstance(game.cost, Linear) and game.weight.shape[0] == 1

    def rest(quality):
        """What the explicit steps leave, and negative congestion."""
        begin = softmax(quality, axis=-1), 0
        if explicit:
            begin = _descend(convex._replace(quality=quality), limit, STEPS)
        more = jnp.where(negative, 100 * limit, 0)
        rows, further = mirror_loads(game._replace(quality=quality), tol, more, begin[0])
        return rows, begin[1] + further

    if not explicit:
        usual = _descend(convex, limit, 0) if start is None else _from(start, convex, tol, limit)
        return where_needed(negative, rest, usual, game.quality)
    load, done = explicit_loads(game.quality[0], convex.ratio)
    usual = load[None, :], jnp.asarray(STEPS)
    return where_needed(~done | negative, rest, usual, game.quality)


def _from(start: Float[Array, " experts"], game: Scaled, tol, limit: Int[Array, ""]):
    """A solution a few steps from `start`, or that from scratch where there is none."""
    there = evaluate(game, *_normalisers(game, start))
    near = jnp.maximum(_off(game, there), there.change) <= NEAR
    rows, steps = _descend(game, jnp.where(near, jnp.minimum(limit, FEW), 0), 0, there)
    # Half of what a game may be off to count as solved: no status is worse than from scratch.
    load = mean_load(game, rows)
    steep = elasticity(game.cost, game.ratio, load).max()
    floor = jnp.minimum(rounding_floor(game, steep), LARGEST_FLOOR)
    away = game.weight @ jnp.abs(response(game, load) - rows).sum(-1)
    good = near & (away <= 0.5 * jnp.maximum(tol, floor))
    anew, more = _descend(game, jnp.where(good, 0, limit), 0)
    return jnp.where(good, rows, anew), 1 + steps + more


def _descend(game: Scaled, limit: Int[Array, ""], head: int, start: Point | None = None):
    """The globally convergent iteration; `head` steps have been taken before it.

    Without a `start` from `_guess`, which is heated. A scale of 0 asks for a point that is accepted whatever it is: the guess, or that of a new heat.
    """
    spread = (game.quality.max(-1) - game.quality.min(-1)).max()
    eps = jnp.finfo(spread.dtype).eps

    def unfinished(state):
        *_, done, steps = state
        return ~done & (steps < limit)

    def advance(state):
        at, scale, heat, _, steps = state
        to = evaluate(_heated(game, heat), *_moved(at, scale))
        # Rounding of nu moves the loads as well: no step can be asked to be shorter.
        noise = 4 * eps * (1 + spread + jnp.abs(at.apart).max())
        last = (scale == 1) & (heat == 1) & (at.change <= jnp.maximum(eps ** (2 / 3), noise))
        fallen = _off(game, to) <= (1 - ARMIJO * scale) * _off(game, at)
        accept = fallen | last | (scale == 0)
        scale = jnp.where(accept, 1, scale * _shorter(at.log_mass, to.log_mass))
        at = Point(*(jnp.where(accept, new, old) for new, old in zip(to, at, strict=True)))
        warm = accept & (_off(game, to) <= WARM)
        cooler = jnp.where(warm, jnp.maximum(heat / COOLING, 1), heat)
        at = at._replace(level=at.level * (heat / cooler), apart=at.apart * (heat / cooler))
        return at, jnp.where(cooler < heat, 0, scale), cooler, last, steps + 1

    several = game.weight.shape[0] > 1
    zero = jnp.zeros_like(spread)
    scale, heat = zero, jnp.maximum(spread / SMOOTH, 1) if several else zero + 1
    if start is None:
        start = Point(*_guess(_heated(game, heat)), game.quality, game.weight, game.weight, zero)
    else:
        scale, heat = zero + 1, zero + 1
    state = (start, scale, heat, spread < 0, head)
    at, *_, steps = while_loop(unfinished, advance, state, (game, limit))
    return _polish(game, _polish(game, at.rows)) if several else at.rows, jnp.asarray(steps)


def _moved(at: Point, scale: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, " types"]]:
    """`nu` after that part of the Newton step, as level and rest."""
    shift = at.step.mean()
    return at.level + scale * shift, at.apart + scale * (at.step - shift)


def _off(game: Scaled, at: Point) -> Float[Array, ""]:
    """What the line search brings down."""
    return game.weight @ jnp.abs(at.log_mass)


def _polish(game: Scaled, rows: Float[Array, "types experts"]) -> Float[Array, "types experts"]:
    """One Newton step of the fractions themselves, where that is short.

    `nu` holds the shares of a type to the last place of `q/lambda` only, which steep prices magnify.
    """
    load = mean_load(game, rows)
    answer = response(game, load)
    steep = game.ratio * game.cost.slope(jnp.maximum(load, jnp.finfo(load.dtype).tiny))
    moved = load_change(rows, game.weight, load, steep, mean_load(game, answer - rows))
    raised = steep * moved
    # At `rows`, as in `moved`: at `answer` the two would differ by (answer - rows)^2, which no
    # steepness divides.
    felt = raised[None, :] - (rows @ raised)[:, None]
    change = answer - rows - rows * felt
    near = (jnp.abs(change) <= 0.1 * rows + jnp.finfo(rows.dtype).eps).all()
    return jnp.where(near, jnp.maximum(rows + change, 0), rows)


def _heated(game: Scaled, heat: Float[Array, ""]) -> Scaled:
    """`game` at `heat` times its temperature."""
    return game._replace(quality=game.quality / heat, ratio=game.ratio / heat)


def _shorter(here: Float[Array, " types"], there: Float[Array, " types"]) -> Float[Array, ""]:
    """Part of a refused step after which the log mass that is worst there may vanish."""
    worst = jnp.abs(there).argmax()
    here, there = here[worst], there[worst]
    part = jnp.clip(here / jnp.where(here == there, 1, here - there), 0.1, 0.5)
    return jnp.where(jnp.isfinite(part), part, 0.1)


def evaluate(game: Scaled, level: Float[Array, ""], apart: Float[Array, " types"]) -> Point:
    """Loads, log masses and the Newton step at `nu = level + apart`."""
    attraction, share = log_shares(game.quality, jnp.log(game.weight), apart)
    load, price, elasticity = settle(game.cost, game.ratio, attraction - level)
    held = share * load[None, :] / game.weight[:, None]
    mass = held.sum(-1)
    tiny = jnp.finfo(mass.dtype).tiny
    some = mass > tiny
    # A type all of whose fractions underflow is told by the largest of them.
    largest = (game.quality - price[None, :]).max(-1) - level - apart
    log_mass = jnp.where(some, jnp.log(jnp.maximum(mass, tiny)), largest)
    rows = held / jnp.maximum(mass, tiny)[:, None]
    free = 1 / (1 + elasticity)
    damped = share * (elasticity * free)[None, :]
    row_sum = jnp.where(some, rows @ free, 1)
    coupling = rows @ damped.T
    step = eliminate(coupling, row_sum, _aim(log_mass, row_sum))
    change = (rows * jnp.abs(step[:, None] - (step @ damped)[None, :])).sum(-1).max()
    return Point(level, apart, rows, log_mass, step, change)


def _aim(log_mass: Float[Array, " types"], free: Float[Array, " types"]):
    """What Newton's method should make of each log mass: itself, or less where it is positive.

    A mass grows like `exp(-nu)` where loads are free (`free` near 1), for which the logarithm is
    straight, and like `-nu` where prices hold them (`free` near 0), for which the mass is.
    """
    held = jnp.maximum(log_mass, 0) * (1 - free)
    return jnp.where(
        held > 0, log_mass * -jnp.expm1(-held) / jnp.where(held > 0, held, 1), log_mass
    )


def _guess(game: Scaled) -> tuple[Float[Array, ""], Float[Array, " types"]]:
    """`nu`, as level and rest, at the prices of one Newton step of the dual from zero prices.

    That step gives loads proportional to `pi/(1 + c pi)`, `pi` the softmax.
    """
    free = game.weight @ jnp.exp(game.quality - logsumexp(game.quality, axis=-1)[:, None])
    roof = game.cost.limit(free)
    even = jnp.minimum(jnp.full_like(free, 1 / free.shape[0]), 0.9 * roof)
    load = free / (1 + game.ratio * game.cost.slope(even) * free)
    return _normalisers(game, jnp.minimum(load / load.sum(), 0.9 * roof))


def _normalisers(game: Scaled, load: Float[Array, " experts"]):
    """`nu` of the types' responses to `load`, as level and rest."""
    normaliser = logsumexp(net_quality(game, load), axis=-1)
    return normaliser.mean(), normaliser - normaliser.mean()
