"""Fixed points of the top-K-truncated best response, which need not exist.

Truncation makes the response jump where the top-K set changes, so repeated responses may cycle
(arXiv 2604.04230, Theorem 5.6, takes a fixed point for granted). Brent's algorithm keeps one past
load, renewed at powers of two, and calls a return to it while the residual is large a cycle.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from mfgjax.equilibrium.loop import while_loop
from mfgjax.equilibrium.solve import usable
from mfgjax.game.game import Game
from mfgjax.game.response import aggregate, truncated_response
from mfgjax.numerics.status import Status, repr_with_words


class TruncatedSolution(eqx.Module):
    """Where repeated truncated best responses ended; every field has the batch's leading axes.

    Attributes:
        load: load of each expert, summing to 1: the fixed point, or one point of the cycle.
        type_load: truncated dispatch fractions of each type against `load`; None for one type.
        residual: L1 distance of `load` from the load of its own truncated response.
        period: steps after which the load returned, 0 where no cycle was seen.
        bound: Theorem 5.6's bound `2 (1 - top_k/M) / (1 - rho)` on the L1 distance to the full
            equilibrium, `rho = gamma/(2 lambda)`; infinite (vacuous) where `rho >= 1`.
        steps: responses computed.
        status: `CONVERGED`, `CYCLE`, `STEP_LIMIT`, `BAD_INPUT` or `INFEASIBLE`.
    """

    load: Float[Array, "*batch experts"]
    type_load: Float[Array, "*batch types experts"] | None
    residual: Float[Array, "*batch"]
    period: Int[Array, "*batch"]
    bound: Float[Array, "*batch"]
    steps: Int[Array, "*batch"]
    status: Int[Array, "*batch"]

    def __repr__(self) -> str:
        return repr_with_words(self, Status)


def solve_truncated(
    game: Game,
    top_k: int,
    *,
    damping: float | Float[Array, ""] = 1.0,
    tol: float | Float[Array, ""] | None = None,
    max_steps: int = 2000,
) -> TruncatedSolution:
    """Iterates `f <- (1 - damping) f + damping sum_k w_k Phi^k_topK(f)` from even loads.

    One instance; batch with `jax.vmap`. Not differentiated: the map jumps. Theorem 5.6's bound is
    for the linear cost and `congestion >= 0`; it is infinite otherwise.

    Args:
        game: the game, without batch axes.
        top_k: experts kept by each type, static.
        damping: in (0, 1], traced; 1 is the plain response.
        tol: residual that counts as a fixed point; 1e-10 in float64, 1e-5 in float32 by default.
        max_steps: static bound on the number of responses.
    """
    game = lax.stop_gradient(game)
    dtype = game.quality.dtype
    if tol is None:
        tol = 1e-10 if dtype == jnp.float64 else 1e-5
    tol, damping = jnp.asarray(tol, dtype), jnp.asarray(damping, dtype)
    valid, feasible = usable(game)
    answer = lambda load: aggregate(game, truncated_response(game, load, top_k))  # noqa: E731

    def unfinished(state):
        _, _, residual, _, period, steps = state
        return valid & feasible & (residual > tol) & (period == 0) & (steps < max_steps)

    def respond(state):
        load, kept, _, kept_at, _, steps = state
        to = answer(load)
        residual = jnp.abs(to - load).sum()
        moved = (1 - damping) * load + damping * to
        back = jnp.abs(moved - kept).sum() <= 1e-3 * damping * residual
        period = jnp.where(back & (residual > tol), steps + 1 - kept_at, 0)
        renew = (steps & (steps + 1)) == 0
        load = jnp.where(residual > tol, moved, load)
        kept, kept_at = jnp.where(renew, load, kept), jnp.where(renew, steps + 1, kept_at)
        return load, kept, residual, kept_at, period, steps + 1

    even = jnp.full(game.experts, 1 / game.experts, dtype)
    far = jnp.full((), jnp.inf, dtype)
    start = (even, jnp.full_like(even, 2), far, *3 * [jnp.asarray(0)])
    load, _, _, _, period, steps = while_loop(unfinished, respond, start, game)
    load = jnp.where(valid & feasible, load, jnp.nan)
    type_load = truncated_response(game, load, top_k)
    residual = jnp.abs(aggregate(game, type_load) - load).sum()
    status = jnp.where(period > 0, Status.CYCLE, Status.STEP_LIMIT)
    status = jnp.where(residual <= tol, Status.CONVERGED, status)
    status = jnp.where(feasible, status, Status.INFEASIBLE)
    return TruncatedSolution(
        load=load,
        type_load=None if game.weight is None else type_load,
        residual=residual,
        period=period,
        bound=_truncation_bound(game, top_k),
        steps=steps,
        status=jnp.where(valid, status, Status.BAD_INPUT).astype(int),
    )


def _truncation_bound(game: Game, top_k: int) -> Float[Array, ""]:
    steep = game.cost.slope(jnp.zeros(1, game.quality.dtype))
    flat = game.cost.slope(jnp.ones(1, game.quality.dtype))
    rate = game.congestion / (2 * game.temperature)
    covered = (rate >= 0) & (rate < 1) & (steep == 1)[0] & (flat == 1)[0]
    bound = 2 * (1 - top_k / game.experts) / (1 - jnp.where(covered, rate, 0))
    return jnp.where(covered, bound, jnp.inf)
