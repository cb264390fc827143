"""Entropic mirror descent on the potential: for comparison, and where the potential is not convex.

A step mixes the loads with their best response in the log domain,
`log mu' = (1 - s) log mu + s log Phi(f)` up to normalisation. The step `s` halves when the potential
would rise and grows back otherwise, so the potential falls to a stationary point of any smooth cost
and either sign of congestion. Linear convergence: many cheap steps (Beck and Teboulle 2003, DOI
10.1016/S0167-6377(02)00231-6).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfgjax.equilibrium.loop import while_loop
from mfgjax.equilibrium.scaled import Scaled, net_quality


def mirror_loads(
    game: Scaled,
    tol: Float[Array, ""],
    limit: Int[Array, ""],
    start: Float[Array, "types experts"] | None = None,
) -> tuple[Float[Array, "types experts"], Int[Array, ""]]:
    """Dispatch fractions of each type, and the number of steps (best responses) taken.

    Args:
        game: the game in units of its temperature.
        tol: residual at which to stop.
        limit: largest number of steps.
        start: fractions to start from; even ones unless given.
    """
    even = jnp.full_like(game.quality, 1 / game.quality.shape[1])
    log_rows = jnp.log(jnp.maximum(even if start is None else start, jnp.finfo(even.dtype).tiny))
    state = (log_rows, jnp.ones_like(game.ratio), jnp.full_like(game.ratio, jnp.inf), 0)

    def unfinished(state):
        return (state[2] > tol) & (state[3] < limit)

    def step(state):
        log_rows, scale, last, steps = state
        rows = jnp.exp(log_rows)
        away = net_quality(game, game.weight @ rows)
        to = jax.nn.log_softmax((1 - scale) * log_rows + scale * away, axis=-1)
        worse = _potential(game, to) > _potential(game, log_rows) + _rounding(game)
        residual = game.weight @ jnp.abs(jax.nn.softmax(away, axis=-1) - rows).sum(-1)
        keep = worse | (residual <= tol)
        # Near the end the potential is flat to rounding; a rising residual shows overshoot there.
        over = worse | (residual > last)
        scale = jnp.where(over, 0.5 * scale, jnp.minimum(1, 1.1 * scale))
        return jnp.where(keep, log_rows, to), scale, residual, steps + 1

    log_rows, _, _, steps = while_loop(unfinished, step, state, (game, limit))
    return jnp.exp(log_rows), jnp.asarray(steps)


def _potential(game: Scaled, log_rows):
    rows = jnp.exp(log_rows)
    congestion = game.ratio * game.cost.integral(game.weight @ rows).sum()
    return congestion + game.weight @ (rows * (log_rows - game.quality)).sum(-1)


def _rounding(game: Scaled):
    size = 1 + jnp.abs(game.quality).max() + jnp.abs(game.ratio)
    return 4 * jnp.finfo(size.dtype).eps * size


def mirror_from_scratch(game: Scaled, tol, limit, max_steps: int):
    """`mirror_loads` from even loads, with the signature of a method."""
    del max_steps
    return mirror_loads(game, tol, limit)
