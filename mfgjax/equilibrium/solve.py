"""`solve_equilibrium`: one call for every method, every answer with its certificate."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from mfgjax.equilibrium.certificate import EXPANDED, certify
from mfgjax.equilibrium.derivative import attach_derivative
from mfgjax.equilibrium.fixed_point import anderson_loads, damped_picard_loads, picard_loads
from mfgjax.equilibrium.loop import explicit_mesh_axes, on_mesh_axes_of
from mfgjax.equilibrium.mirror import mirror_from_scratch
from mfgjax.equilibrium.newton import newton_loads
from mfgjax.equilibrium.scaled import LARGEST_FLOOR, rounding_floor, scale
from mfgjax.equilibrium.solution import Solution
from mfgjax.game.cost import Linear
from mfgjax.game.game import Game, weight_tolerance
from mfgjax.game.precision import full_precision
from mfgjax.game.response import price
from mfgjax.numerics.status import Status

METHODS: dict[str, Callable] = {
    "newton": newton_loads,
    "picard": picard_loads,
    "damped_picard": damped_picard_loads,
    "anderson": anderson_loads,
    "mirror": mirror_from_scratch,
}


def solve_equilibrium(
    game: Game,
    *,
    method: str = "newton",
    tol: float | Float[Array, ""] | None = None,
    max_steps: int = 200,
    start: Float[Array, " experts"] | None = None,
) -> Solution:
    """Equilibrium of one game; batch with `jax.vmap`, or thousands with `solve_equilibria`.

    `load`, `type_load` and `price` are differentiable to any order, in both modes, with respect to
    every array of `game` (closed form, see `mfgjax.equilibrium.derivative`); the derivative is NaN
    where the status is neither `CONVERGED` nor `NOT_UNIQUE`. Never raises on traced values.

    Compiles once per shape, dtype, cost and static argument, inside `jit` or not.

    Args:
        game: the game, without batch axes.
        method: static. "newton" converges for every `congestion >= 0` (docs/limits.md has the
            exceptions); "picard", "damped_picard", "anderson" (through jaxopt) and "mirror" are
            there for comparison, and "mirror" for costs that break convexity.
        tol: largest residual (total fraction of tokens that would move) that counts as converged;
            1e-12 in float64 and 1e-5 in float32 unless given. Raised, per instance, to the
            rounding floor `8 eps (1 + max|q|/lambda + max c)`, `c` the elasticity of the price (in
            the load, and in the threshold of a softplus cost), but
            not above 0.01: beyond that, or where rounding may change a response by a tenth, the
            status is `PRECISION`. Traced: changing it does not recompile.
        max_steps: static bound on the number of steps; up to five more with `start`.
        start: load of a game nearby, for "newton": saves steps of steep games where it is near. Where
            it is not (any numbers, NaN too) it costs a step, seldom a few, and the answer is,
            to the last bit, that without it; no status is worse. No effect on one type with the linear cost, on
            negative congestion, or on derivatives (zero with respect to it). Traced.

    Returns:
        A `Solution`.

    Raises:
        ValueError: for a game with batch axes, an unknown method, or a `start` that is not one load
            per expert, or with another method.
        TypeError: for a game cast to a dtype below float32, or on a mesh with explicit axes.
    """
    if game.quality.ndim != (1 if game.weight is None else 2):
        raise ValueError(
            f"quality has shape {game.quality.shape}: use jax.vmap(solve_equilibrium) for a batch"
        )
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; choose one of {sorted(METHODS)}")
    if game.quality.dtype not in (jnp.float32, jnp.float64):
        raise TypeError(
            f"the game has dtype {game.quality.dtype}; float32 or float64 is needed, or no "
            "certificate is worth having: build it with Game(...), which casts"
        )
    if explicit := explicit_mesh_axes(game):
        raise TypeError(
            f"the game lies on a mesh whose axes {explicit} are explicit, which solve_equilibrium "
            "cannot follow: use jax.make_mesh(..., axis_types=(AxisType.Auto,)), or shard_map"
        )
    if start is not None:
        if method != "newton":
            raise ValueError(f"method {method!r} takes no start; 'newton' does")
        start = jnp.asarray(start, game.quality.dtype)
        if start.shape != (game.experts,):
            raise ValueError(
                f"start has shape {start.shape} for {game.experts} experts: give the load of one "
                "solution; for a batch, jax.vmap(solve_equilibrium)(games, start=loads)"
            )
    game, start = on_mesh_axes_of((game, start), (game, start))
    return _solve(game, tol, start, method=method, max_steps=max_steps)


@partial(jax.jit, static_argnames=("method", "max_steps"))
@full_precision
def _solve(game: Game, tol, start, *, method: str, max_steps: int) -> Solution:
    still = lax.stop_gradient(game)
    valid, feasible = usable(still)
    scaled = scale(still, valid & feasible)
    if tol is None:
        tol = 1e-12 if scaled.quality.dtype == jnp.float64 else 1e-5
    tol = jnp.asarray(tol, scaled.quality.dtype)
    limit = jnp.where(valid & feasible, max_steps, 0)
    begin = {} if start is None else {"start": lax.stop_gradient(start)}
    rows, steps = METHODS[method](scaled, tol, limit, max_steps, **begin)
    blank = jnp.where(valid & feasible, 1, jnp.nan).astype(rows.dtype)
    rows = rows * blank

    type_load = rows[0] if game.weight is None else rows
    known = certify(scaled, rows)
    residual = known.residual
    floor = rounding_floor(scaled, known.steep)
    # Prices so steep that their rounding decides the response: no residual can be believed.
    blind = ~(known.rounding < EXPANDED)
    found = ~blind & (residual <= jnp.maximum(tol, jnp.minimum(floor, LARGEST_FLOOR)))

    unique, rate = _uniqueness(still)
    bound = jnp.where(
        still.congestion >= 0,
        known.bound,
        jnp.where(unique, jnp.minimum((residual + floor) / (1 - rate), 2) + known.outside, jnp.inf),
    )
    rounded = (residual <= floor) | blind & (residual <= 2 * known.rounding)
    short = jnp.where(rounded, Status.PRECISION, Status.STEP_LIMIT)
    status = jnp.where(found, jnp.where(unique, Status.CONVERGED, Status.NOT_UNIQUE), short)
    status = jnp.where(feasible, status, Status.INFEASIBLE)
    status = jnp.where(valid, status, Status.BAD_INPUT)

    type_load, load = attach_derivative(type_load, game, found)
    return Solution(
        load=load,
        type_load=None if game.weight is None else type_load,
        price=price(game, load),
        residual=residual,
        gap=jnp.where(still.congestion >= 0, known.gap * still.temperature, jnp.nan),
        error_bound=jnp.where(jnp.isnan(residual), jnp.inf, bound),
        steps=jnp.asarray(steps),
        status=status.astype(int),
    )


def usable(game: Game) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether the numbers make a game, and whether its capacities can hold all tokens."""
    valid = game.temperature > 0
    for leaf in jax.tree.leaves(game):  # not stacked: some may be sharded over a mesh
        valid &= jnp.isfinite(leaf).all()
    for name in game.cost.positive:
        valid &= (getattr(game.cost, name) > 0).all()
    if game.weight is not None:
        off = jnp.abs(game.weight.sum() - 1)
        valid &= (game.weight >= 0).all() & (off <= weight_tolerance(game.weight.dtype))
    shape = jnp.zeros(game.experts, game.quality.dtype)
    return valid, game.cost.limit(shape).sum() > 1


def _uniqueness(game: Game) -> tuple[Bool[Array, ""], Float[Array, ""]]:
    """Whether the equilibrium is surely unique, and the contraction rate of the response.

    For `congestion < 0` the response contracts in L1 at rate `|gamma| max F' / (2 lambda)`
    (arXiv 2604.04230, Lemma 5.4); the slope's maximum is known here for the linear cost only.
    """
    if not isinstance(game.cost, Linear):
        return game.congestion >= 0, jnp.ones_like(game.congestion)
    rate = jnp.abs(game.congestion) / (2 * game.temperature)
    return (game.congestion >= 0) | (rate < 1), rate
