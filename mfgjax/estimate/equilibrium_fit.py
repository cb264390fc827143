"""Congestion whose equilibrium is closest to the load: `min_gamma dist(equilibrium(gamma), load)`.

Where the other objectives ask whether the load is a best response to itself, this one solves the
game at every gamma. The derivative of the equilibrium in gamma is implicit, in closed form
(`mfgjax.equilibrium`). Distance `"kl"`: Fisher scoring, `g / sum (dmu/dgamma)^2 / mu`. Distance
`"l1"`: it has kinks, and may have several minima, so the subgradient is bisected next to the lowest
point of a grid: a minimum with a falling and a rising side, and no certificate that it is global.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from mfgjax.equilibrium import solve_equilibrium
from mfgjax.estimate.fit import CongestionFit, FitStatus
from mfgjax.game import Game

Distance = Literal["kl", "l1"]

FARTHEST = 1e6
"""Congestion at which a fit gives up: the distance still falls there, so it has no minimiser."""
_GRID = 24
_HALVINGS = 50


def fit_equilibrium(
    quality: Float[Array, " expert"],
    load: Float[Array, " expert"],
    temperature: Float[Array, ""],
    *,
    distance: Distance = "kl",
    atol: float = 1e-6,
    max_steps: int = 60,
) -> CongestionFit:
    """Fit one instance, congestion >= 0; batch with `jax.vmap`. Never raises on values.

    Not differentiable. `CONVERGED` says for `"kl"` that the last scoring step was below `atol`; for
    `"l1"` that the distance falls on one side of the answer and rises on the other. `UNBOUNDED`: the
    distance still falls at the largest congestion, where the equilibrium is uniform.

    Args:
        quality: expert qualities, any common shift.
        load: dispatch fractions, summing to 1.
        temperature: of the softmax, > 0. Traced.
        distance: of the equilibrium to the load. Static.
        atol: step in congestion, relative to 1 + congestion, at which scoring stops.
        max_steps: static bound on scoring steps.
    """
    valid = jnp.isfinite(quality).all() & jnp.isfinite(load).all() & (load >= 0).all()
    valid = valid & (jnp.abs(load.sum() - 1) < 1e-3) & (temperature > 0)
    experts = load.shape[0]
    quality = jnp.where(valid, quality, 0)
    target = jnp.where(valid, load, 1 / experts)
    temperature = jnp.where(valid, temperature, 1)

    def equilibrium(congestion):
        return solve_equilibrium(Game(quality, congestion, temperature)).load

    if distance == "l1":
        found = _bisect_l1(equilibrium, target, experts * temperature)
    else:
        found = _score_kl(equilibrium, target, atol, max_steps)
    congestion, value, minima, steps, done = found
    status = jnp.where(done, FitStatus.CONVERGED, FitStatus.MAX_STEPS)
    status = jnp.where(congestion < 0.5 * FARTHEST, status, FitStatus.UNBOUNDED)
    uniform = (target.max() - target.min()) <= 8 * jnp.finfo(load.dtype).eps
    status = jnp.where(uniform, FitStatus.UNIDENTIFIED, status)
    status = jnp.where(valid, status, FitStatus.BAD_INPUT).astype(jnp.int32)
    known = valid & ~uniform
    return CongestionFit(
        congestion=jnp.where(known, congestion, jnp.nan),
        residual=jnp.where(known, value, jnp.nan),
        minima=jnp.where(known, minima, 0),
        at_boundary=known & (congestion <= 0),
        standard_error=jnp.full_like(congestion, jnp.nan),
        gap=jnp.full_like(congestion, jnp.nan),
        steps=steps,
        status=status,
    )


def _score_kl(equilibrium, target, atol, max_steps):
    """Fisher scoring with steps that never increase the divergence."""

    def score(congestion):
        mu, tangent = jax.jvp(equilibrium, (congestion,), (jnp.ones_like(congestion),))
        divergence = (xlogy(target, target) - xlogy(target, mu)).sum()
        return divergence, -(target / mu * tangent).sum(), (tangent**2 / mu).sum()

    def unfinished(state):
        congestion, _, move, steps = state
        far = congestion >= FARTHEST
        return (jnp.abs(move) > atol * (1 + congestion)) & (steps < max_steps) & ~far

    def step(state):
        congestion, value, move, steps = state
        trial = jnp.clip(congestion + move, 0, FARTHEST)
        reached, gradient, information = score(trial)
        better = reached <= value
        tiny = jnp.finfo(value.dtype).tiny
        newton = jnp.maximum(-gradient / jnp.maximum(information, tiny), -trial)
        # Bound the step by the scale of gamma: far from the optimum scoring overshoots.
        newton = jnp.clip(newton, -0.5 * (1 + trial), 1 + trial)
        return (
            jnp.where(better, trial, congestion),
            jnp.where(better, reached, value),
            jnp.where(better, newton, move / 4),
            steps + 1,
        )

    zero = jnp.zeros((), target.dtype)
    far = jnp.full((), jnp.inf, target.dtype)
    first = (zero, far, jnp.ones_like(zero), jnp.zeros((), jnp.int32))
    congestion, value, move, steps = jax.lax.while_loop(unfinished, step, first)
    done = jnp.abs(move) <= atol * (1 + congestion)
    return congestion, value, jnp.ones((), jnp.int32), steps, done


def _bisect_l1(equilibrium, target, unit):
    """Sign of the subgradient, on a grid and then between the grid points beside the lowest."""

    def at(place):
        congestion = unit * jnp.sinh(place)
        mu, tangent = jax.jvp(equilibrium, (congestion,), (jnp.ones_like(congestion),))
        return jnp.abs(mu - target).sum(), (jnp.sign(mu - target) * tangent).sum()

    farthest = jnp.arcsinh(FARTHEST / unit)
    grid = farthest * jnp.linspace(0, 1, _GRID, dtype=target.dtype)
    values, slopes = jax.vmap(at)(grid)
    falling = slopes < 0
    minima = (falling[:-1] & ~falling[1:]).sum(dtype=jnp.int32) + (~falling[0]).astype(jnp.int32)
    best = jnp.argmin(values)
    rises = ~falling[best]
    low = grid[jnp.where(rises, jnp.maximum(best - 1, 0), best)]
    high = grid[jnp.where(rises, best, jnp.minimum(best + 1, _GRID - 1))]

    def halve(_, state):
        low, high, fell, rose, place, value = state
        middle = 0.5 * (low + high)
        reached, slope = at(middle)
        down = slope < 0
        place = jnp.where(reached < value, middle, place)
        return (
            jnp.where(down, middle, low),
            jnp.where(down, high, middle),
            fell | down,
            rose | ~down,
            place,
            jnp.minimum(reached, value),
        )

    first = (low, high, ~rises, rises | (best < _GRID - 1), grid[best], values[best])
    low, _, fell, rose, place, value = jax.lax.fori_loop(0, _HALVINGS, halve, first)
    boundary = (best == 0) & rises
    place = jnp.where(boundary, 0, place)
    steps = jnp.asarray(_GRID + _HALVINGS, jnp.int32)
    return unit * jnp.sinh(place), value, jnp.maximum(minima, 1), steps, boundary | (fell & rose)
