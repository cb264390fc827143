"""Fixed-point iterations through jaxopt, for comparison: they converge for weak congestion only.

Plain Picard diverges once the best response is steep, `gamma/lambda max_i mu_i > 1` or so (arXiv
2604.04230, Lemma 5.4); Anderson mixing goes further, with no guarantee; damping restores
convergence at a rate that falls like `1/gamma`. jaxopt says nothing about failure: the certificate and
the status of the solution are this package's own. jaxopt is imported only here, when asked for.
"""

import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.equilibrium.scaled import Scaled, response, steepest


def picard_loads(game: Scaled, tol, limit, max_steps: int):
    """Repeated best response."""
    return _iterate(game, tol, max_steps, jnp.ones_like(game.ratio), history=None)


def damped_picard_loads(game: Scaled, tol, limit, max_steps: int):
    """Best response with the damping that the steepest possible price still converges under."""
    return _iterate(game, tol, max_steps, 1 / (1 + 0.25 * steepest(game)), history=None)


def anderson_loads(game: Scaled, tol, limit, max_steps: int):
    """Anderson mixing of five best responses."""
    return _iterate(game, tol, max_steps, jnp.ones_like(game.ratio), history=5)


def _iterate(game: Scaled, tol, max_steps: int, damping: Float[Array, ""], history: int | None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import jaxopt

    def mix(load: Float[Array, " experts"]) -> Float[Array, " experts"]:
        return (1 - damping) * load + damping * (game.weight @ response(game, load))

    stop = 0.1 * tol * damping
    if history is None:
        solver = jaxopt.FixedPointIteration(mix, maxiter=max_steps, tol=stop)
    else:
        solver = jaxopt.AndersonAcceleration(mix, maxiter=max_steps, tol=stop, history_size=history)
    even = jnp.full_like(game.quality[0], 1 / game.quality.shape[1])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        load, state = solver.run(even)
    # Iterates of Anderson mixing may leave the simplex; the answer must not.
    load = jnp.where(jnp.isfinite(load), jnp.maximum(load, 0), 1)
    return response(game, load / load.sum()), jnp.asarray(state.iter_num)
