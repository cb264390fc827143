"""The same games solved by other packages: one function per peer, each returning loads.

Every peer gets the residual form that suits it best and a tight tolerance; none is told the answer.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from mfgjax.game import Game
from mfgjax.game.response import aggregate, best_response

TOLERANCE = 1e-10


def respond(load, game: Game):
    """Load of the best response: the map whose fixed point is wanted."""
    return aggregate(game, best_response(game, load))


def even(game: Game):
    return jnp.full(game.experts, 1 / game.experts, game.quality.dtype)


def jaxopt_picard(game: Game):
    """jaxopt.FixedPointIteration, 1,000 iterations at most."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import jaxopt

    solver = jaxopt.FixedPointIteration(respond, maxiter=1000, tol=TOLERANCE)
    return solver.run(even(game), game).params


def jaxopt_anderson(game: Game):
    """jaxopt.AndersonAcceleration, history 5, 200 iterations at most."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import jaxopt

    solver = jaxopt.AndersonAcceleration(respond, history_size=5, maxiter=200, tol=TOLERANCE)
    return solver.run(even(game), game).params


def optimistix_newton(game: Game):
    """optimistix.Newton on `log S(f) - log f` in log loads: dense Jacobian, dense LU."""
    import optimistix as optx

    def residual(log_load, game):
        return jnp.log(respond(jnp.exp(log_load), game)) - log_load

    solver = optx.Newton(rtol=TOLERANCE, atol=TOLERANCE)
    found = optx.root_find(
        residual, solver, jnp.log(even(game)), args=game, max_steps=64, throw=False
    )
    return jnp.exp(found.value)


JAX_PEERS = {
    "jaxopt Picard": jaxopt_picard,
    "jaxopt Anderson": jaxopt_anderson,
    "optimistix Newton": optimistix_newton,
}


def scipy_root(quality: np.ndarray, congestion: float) -> np.ndarray:
    """scipy.optimize.root (hybr) on one single-type game, with the exact Jacobian."""
    from scipy.optimize import root

    def residual(load):
        logits = quality - congestion * load
        answer = np.exp(logits - logits.max())
        answer /= answer.sum()
        jacobian = -congestion * (np.diag(answer) - np.outer(answer, answer))
        return answer - load, jacobian - np.eye(len(load))

    with np.errstate(all="ignore"):
        found = root(residual, np.full(len(quality), 1 / len(quality)), jac=True, tol=1e-12)
    return found.x


def cvxpy_clarabel(quality: np.ndarray, congestion: float) -> np.ndarray:
    """The convex potential in cvxpy, solved by Clarabel's interior point with exponential cones."""
    import cvxpy as cp

    load = cp.Variable(len(quality))
    cost = 0.5 * congestion * cp.sum_squares(load) - quality @ load - cp.sum(cp.entr(load))
    whole: list = [cp.sum(load) == 1]
    cp.Problem(cp.Minimize(cost), whole).solve(
        solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12
    )
    return np.asarray(load.value)


HOST_PEERS = {"scipy.optimize.root": scipy_root, "cvxpy + Clarabel": cvxpy_clarabel}


UNSHARDED = {"optimistix Newton"}  # lineax refuses the array types inside shard_map


def spread_over_devices(solve_one, batch: int, experts: int, *, sharded: bool = True):
    """`solve_one` over a batch: sharded over every device, in chunks that stay in cache.

    All JAX solvers run through this, ours and the peers'; compare CPU seconds, not the wall clock,
    with one that is not sharded.
    """
    devices = jax.device_count() if sharded else 1
    share = batch // devices
    most = max(1, 8192 // experts)
    size = max(n for n in range(1, min(most, share) + 1) if share % n == 0)
    mesh = jax.make_mesh((devices,), ("game",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("game")
    mapped = lambda games: jax.lax.map(solve_one, games, batch_size=size)  # noqa: E731
    if not sharded:
        return jax.jit(mapped)
    return jax.jit(jax.shard_map(mapped, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
