"""Congestion whose equilibrium is closest to the load: `min_gamma dist(equilibrium(gamma), load)`.

Where the other objectives ask whether the load is a best response to itself, this one solves the
game at every gamma. The derivative of the equilibrium in gamma is implicit, in closed form
(`mfgjax.equilibrium`). Distance `"kl"`: Fisher scoring, `g / sum (dmu/dgamma)^2 / mu`. Distance
`"l1"`: Adam (optax) on the subgradient from the `"kl"` fit, the best point visited; a local answer.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from mfgjax.equilibrium import solve_equilibrium
from mfgjax.estimate.fit import CongestionFit, FitStatus
from mfgjax.game import Game


def fit_equilibrium(
    quality: Float[Array, " expert"],
    load: Float[Array, " expert"],
    temperature: Float[Array, ""],
    *,
    distance: Literal["kl", "l1"] = "kl",
    atol: float = 1e-6,
    max_steps: int = 60,
    l1_steps: int = 300,
) -> CongestionFit:
    """Fit one instance, congestion >= 0; batch with `jax.vmap`. Never raises on values.

    Args:
        quality: expert qualities, any common shift.
        load: dispatch fractions, summing to 1.
        temperature: of the softmax, > 0. Traced.
        distance: of the equilibrium to the load. Static.
        atol: step in congestion, relative to 1 + congestion, at which scoring stops.
        max_steps: static bound on scoring steps.
        l1_steps: static number of Adam steps.
    """
    valid = jnp.isfinite(quality).all() & jnp.isfinite(load).all() & (load >= 0).all()
    valid = valid & (jnp.abs(load.sum() - 1) < 1e-3) & (temperature > 0)
    experts = load.shape[0]
    quality = jnp.where(valid, quality, 0)
    target = jnp.where(valid, load, 1 / experts)
    temperature = jnp.where(valid, temperature, 1)

    def equilibrium(congestion):
        return solve_equilibrium(Game(quality, congestion, temperature)).load

    def divergence(mu):
        return (xlogy(target, target) - xlogy(target, mu)).sum()

    def score(congestion):
        mu, tangent = jax.jvp(equilibrium, (congestion,), (jnp.ones_like(congestion),))
        return divergence(mu), -(target / mu * tangent).sum(), (tangent**2 / mu).sum()

    def unfinished(state):
        congestion, _, move, steps = state
        return (jnp.abs(move) > atol * (1 + congestion)) & (steps < max_steps)

    def step(state):
        congestion, value, move, steps = state
        trial = jnp.maximum(congestion + move, 0)
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

    zero = jnp.zeros((), load.dtype)
    first = (zero, jnp.full((), jnp.inf, load.dtype), jnp.ones_like(zero), jnp.zeros((), jnp.int32))
    congestion, value, move, steps = jax.lax.while_loop(unfinished, step, first)
    done = jnp.abs(move) <= atol * (1 + congestion)
    if distance == "l1":
        congestion, value = _refine_l1(equilibrium, target, congestion, l1_steps)
        done = jnp.ones_like(done)
    status = jnp.where(done, FitStatus.CONVERGED, FitStatus.MAX_STEPS)
    uniform = (target.max() - target.min()) <= 8 * jnp.finfo(load.dtype).eps
    status = jnp.where(uniform, FitStatus.UNIDENTIFIED, status)
    status = jnp.where(valid, status, FitStatus.BAD_INPUT).astype(jnp.int32)
    known = valid & ~uniform
    return CongestionFit(
        congestion=jnp.where(known, congestion, jnp.nan),
        residual=jnp.where(known, value, jnp.nan),
        minima=known.astype(jnp.int32),
        at_boundary=known & (congestion <= 0),
        standard_error=jnp.full_like(congestion, jnp.nan),
        gap=jnp.full_like(congestion, jnp.nan),
        steps=steps,
        status=status,
    )


def _refine_l1(equilibrium, target, start, steps):
    """Best point of an Adam run on log(1 + gamma), the rate decaying to zero."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, steps))

    def distance(point):
        return jnp.abs(equilibrium(jnp.expm1(jnp.maximum(point, 0))) - target).sum()

    def step(state, _):
        point, memory, best, at = state
        value, slope = jax.value_and_grad(distance)(point)
        best, at = jnp.minimum(best, value), jnp.where(value < best, point, at)
        # optax mixes its int32 counter with floats, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            update, memory = optimizer.update(slope, memory, point)
        point = jnp.maximum(point + jnp.asarray(update, point.dtype), 0)
        return (point, memory, best, at), None

    first = jnp.log1p(start)
    state = (first, optimizer.init(first), jnp.full_like(first, jnp.inf), first)
    (_, _, best, at), _ = jax.lax.scan(step, state, None, length=steps)
    return jnp.expm1(at), best
