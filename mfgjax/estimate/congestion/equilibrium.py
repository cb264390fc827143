"""Congestion whose equilibrium is closest to the load: `min_gamma dist(equilibrium(gamma), load)`.

Where the other objectives ask whether the load is a best response to itself, this one solves the
game at every gamma. The equilibrium obeys `lambda log mu_i + gamma mu_i = q_i + constant`, so

    d log mu_i / d gamma = (c - mu_i) / (lambda + gamma mu_i)                                   (1)

with c such that `sum mu_i d log mu_i = 0` (derived): relative, so that an expert whose load underflows
still has its own. Either distance may have several minima, so the sign of its slope is bisected
next to the lowest point of a grid: a minimum with a falling and a rising side, and no certificate that
it is global.

**Existence.** As gamma grows the equilibrium tends to uniform, `mu_i - 1/M ~ (q_i - mean q) / gamma`, and the
divergence to its limit from below if and only if `sum load_i q_i > mean q` (derived): then there is
a finite minimiser. If loads are ordered against the qualities there is none (Chebyshev's sum inequality).
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.equilibrium import solve_equilibrium
from mfgjax.estimate.congestion.result import CongestionFit
from mfgjax.estimate.congestion.tilt import LOAD_SUM_TOLERANCE
from mfgjax.game import Game
from mfgjax.numerics.status import Status

Distance = Literal["kl", "l1"]

FARTHEST = 1e6
"""Congestion at which a fit gives up, in units of the temperature or, where larger, the spread of quality."""
_GRID = 24


def fit_equilibrium(
    quality: Float[Array, " expert"],
    load: Float[Array, " expert"],
    temperature: Float[Array, ""],
    *,
    distance: Distance = "kl",
) -> CongestionFit:
    """Fit one instance, congestion >= 0; batch with `jax.vmap`. Never raises on values.

    Not differentiable. `CONVERGED` says that the equilibrium at the answer is certified, and that the
    distance falls on one side of it and rises on the other. `UNBOUNDED`: no congestion of the grid is
    as close as the uniform load, to which the equilibrium tends; infinity and that distance are
    returned.

    Args:
        quality: expert qualities, any common shift.
        load: dispatch fractions, summing to 1.
        temperature: of the softmax, > 0. Traced.
        distance: of the equilibrium to the load. Static.
    """
    valid = jnp.isfinite(quality).all() & jnp.isfinite(load).all() & (load >= 0).all()
    valid = valid & (jnp.abs(load.sum() - 1) < LOAD_SUM_TOLERANCE)
    valid = valid & (temperature > 0) & jnp.isfinite(temperature)
    experts = load.shape[0]
    quality = jnp.where(valid, quality - quality.max(), 0)
    target = jnp.where(valid, load / load.sum(), 1 / experts)
    temperature = jnp.where(valid, temperature, 1)
    measure = _divergence if distance == "kl" else _absolute

    def at(congestion):
        solved = solve_equilibrium(Game(quality, congestion, temperature))
        mu = solved.load
        # The response has the logarithm of a load that underflows, and large ones only with the
        # rounding of their price.
        response = jax.nn.log_softmax((quality - congestion * mu) / temperature)
        safe = mu > jnp.finfo(mu.dtype).eps
        log_load = jnp.where(safe, jnp.log(jnp.where(safe, mu, 1)), response)
        stiff = temperature + congestion * mu
        change = ((mu**2 / stiff).sum() / (mu / stiff).sum() - mu) / stiff
        value, slope = measure(target, mu, log_load, change)
        return value, slope, solved.status == Status.CONVERGED

    unit = jnp.maximum(temperature, jnp.ptp(quality))
    congestion, value, certified, minima, bracketed = _bisect(at, unit, experts)
    even = jnp.full_like(target, 1 / experts)
    limit, _ = measure(target, even, jnp.log(even), jnp.zeros_like(even))

    # What rounding of the terms of both may make of a distance that is the same.
    rounding = 4 * jnp.finfo(target.dtype).eps * jnp.abs(target - even).sum()
    unbounded = limit <= value + rounding
    status = jnp.where(bracketed & certified, Status.CONVERGED, Status.STEP_LIMIT)
    status = jnp.where(unbounded, Status.UNBOUNDED, status)
    uniform = (load.max() - load.min()) <= 8 * jnp.finfo(load.dtype).eps
    status = jnp.where(uniform, Status.UNIDENTIFIED, status)
    status = jnp.where(valid, status, Status.BAD_INPUT).astype(jnp.int32)
    known = valid & ~uniform
    congestion = jnp.where(unbounded, jnp.inf, congestion)
    return CongestionFit(
        congestion=jnp.where(known, congestion, jnp.nan),
        residual=jnp.where(known, jnp.minimum(value, limit), jnp.nan),
        minima=jnp.where(known, minima, 0),
        at_boundary=known & (congestion <= 0),
        standard_error=jnp.full_like(congestion, jnp.nan),
        gap=jnp.full_like(congestion, jnp.nan),
        steps=jnp.full_like(status, _GRID + _halvings(target.dtype)),
        status=status,
    )


def _divergence(target, mu, log_load, change):
    """KL divergence of the load to the equilibrium, and its slope."""
    # Where the loads are close the terms all but cancel; as a sum of terms >= 0 they do not.
    off = target - mu
    near = jnp.abs(off) < 0.5 * mu
    close = target * jnp.log1p(off / jnp.where(near, mu, 1)) - off
    positive = target > 0
    far = target * (jnp.log(jnp.where(positive, target, 1)) - jnp.where(positive, log_load, 0))
    return jnp.where(near, close, far - off).sum(), -(target * change).sum()


def _absolute(target, mu, log_load, change):
    """L1 distance, and its slope."""
    del log_load
    return jnp.abs(mu - target).sum(), (jnp.sign(mu - target) * mu * change).sum()


def _halvings(dtype) -> int:
    """Until the bracket is a rounding error wide."""
    return jnp.finfo(dtype).nmant


def _bisect(at, unit, experts):
    """Sign of the slope, on a grid and then between the grid points beside the lowest.

    One loop does both: the solver in it is most of what there is to compile.
    """

    def place_to_congestion(place):
        return experts * unit * jnp.sinh(place)

    grid = jnp.arcsinh(FARTHEST / experts) * jnp.linspace(0, 1, _GRID, dtype=unit.dtype)

    def lowest_of(values, slopes):
        best = jnp.argmin(values)
        return best, ~(slopes[best] < 0)  # a slope that is no number does not fall

    def visit(step, state):
        seen, bracket, lowest = state
        scanning = step < _GRID
        low, high, fell, rose = bracket
        middle = jnp.where(scanning, grid[jnp.minimum(step, _GRID - 1)], 0.5 * (low + high))
        value, slope, certified = at(place_to_congestion(middle))
        here = jnp.arange(_GRID) == step
        seen = jax.tree.map(
            lambda all, one: jnp.where(here, one, all), seen, (value, slope, certified)
        )

        values, slopes, sure = seen
        best, rises = lowest_of(values, slopes)
        ahead = grid[jnp.where(rises, best, jnp.minimum(best + 1, _GRID - 1))]
        behind = grid[jnp.where(rises, jnp.maximum(best - 1, 0), best)]
        around = (behind, ahead, ~rises, rises | (best < _GRID - 1))

        down = slope < 0
        halved = (jnp.where(down, middle, low), jnp.where(down, high, middle))
        halved = (*halved, fell | down, rose | ~down)
        lower = value < lowest[1]
        nearer = jax.tree.map(partial(jnp.where, lower), (middle, value, certified), lowest)
        choose = partial(jnp.where, scanning)
        bracket = jax.tree.map(choose, around, halved)
        lowest = jax.tree.map(choose, (grid[best], values[best], sure[best]), nearer)
        return seen, bracket, lowest

    none = jnp.zeros((), bool)
    seen = (jnp.full_like(grid, jnp.inf), jnp.zeros_like(grid), jnp.zeros(_GRID, bool))
    state = (seen, (grid[0], grid[0], none, none), (grid[0], seen[0][0], none))
    steps = _GRID + _halvings(unit.dtype)
    (values, slopes, _), (*_, fell, rose), lowest = jax.lax.fori_loop(0, steps, visit, state)
    best, rises = lowest_of(values, slopes)
    falling = slopes < 0
    minima = (falling[:-1] & ~falling[1:]).sum(dtype=jnp.int32) + (~falling[0]).astype(jnp.int32)
    place, value, certified = lowest
    boundary = (best == 0) & rises
    place = jnp.where(boundary, 0, place)
    bracketed = boundary | (fell & rose)
    return place_to_congestion(place), value, certified, jnp.maximum(minima, 1), bracketed
