"""Equilibrium of a stack of layers: forward-backward sweeps under Newton's method.

In `u^l = p^l / sqrt(gamma_l)` the dual (4) of `mfgjax.game.layered` is strongly convex even where
gamma is 0, with gradient `u - sqrt(gamma) f(p)` and Hessian `1 + sqrt(gamma) C sqrt(gamma) / lambda`,
`C` the covariance of the loads: Newton's method with a line search converges from anywhere. One
sweep gives the gradient; `method="sweep"` uses nothing else.

The certificate: paths P chosen at prices p have loads f; against the prices `gamma f` their duality
gap is `lambda KL(P || P')`, with log-ratio `sum_l (gamma_l f^l - p^l)(j_l) / lambda` up to a constant.
Hoeffding's lemma and Pinsker's inequality, with the potential `lambda`-strongly convex in KL, give

    |P - P*|_1 <= (1 / (2 lambda)) sum_l osc(gamma_l f^l - p^l),     osc = max - min,           (1)

which bounds every layer's load error and cancels nowhere. [derived]
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve as solve_dense
from jaxtyping import Array, Bool, Float, Int

from mfgjax.equilibrium.loop import while_loop
from mfgjax.equilibrium.solution import Solution
from mfgjax.equilibrium.solve import solve_equilibrium
from mfgjax.game.game import Game
from mfgjax.game.layered import LayeredGame, load_covariance, sweep
from mfgjax.game.precision import full_precision
from mfgjax.numerics.status import Status, repr_with_words

ARMIJO = 1e-4
HALVINGS = 60


class LayeredSolution(eqx.Module):
    """Loads of every layer with their certificate; `mfgjax.equilibrium.check` takes it.

    Attributes:
        load: dispatch fractions of each layer; this, `policy`, `continuation` and `price` are
            differentiable.
        policy: choice at each layer by the expert that the token comes from.
        continuation: cost `w` of what follows each expert, in logits.
        price: congestion price `gamma_l f^l`, in logits.
        residual: largest over layers of `|f^l - (loads at prices gamma f)^l|_1`.
        error_bound: bound (1) on the L1 error of every layer's load, 0 to 2, rounding included.
        steps: Newton steps, or sweeps.
        status: a `Status`; unique for every congestion >= 0, which is required.
    """

    load: Float[Array, "*batch layer expert"]
    policy: Float[Array, "*batch layer previous expert"]
    continuation: Float[Array, "*batch layer expert"]
    price: Float[Array, "*batch layer expert"]
    residual: Float[Array, "*batch"]
    error_bound: Float[Array, "*batch"]
    steps: Int[Array, "*batch"]
    status: Int[Array, "*batch"]

    def __repr__(self) -> str:
        return repr_with_words(self, Status)

    @property
    def spread(self) -> Float[Array, "*batch layer"]:
        """Continuation spread `max w - min w` of Theorem 5.8, in logits; 0 in the last layer."""
        return self.continuation.max(-1) - self.continuation.min(-1)

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        return self.status == Status.CONVERGED


@full_precision
def solve_layered(
    game: LayeredGame,
    *,
    method: str = "newton",
    tol: float | Float[Array, ""] | None = None,
    max_steps: int | None = None,
) -> LayeredSolution:
    """Equilibrium of one stack of layers; batch with `jax.vmap`. Never raises on traced values.

    Differentiable to any order, in both modes, in every array of `game`; NaN where not converged.

    Args:
        game: without batch axes.
        method: static. "newton" (O((L M)^3) a step) or "sweep", damped forward-backward sweeps
            (O(L M^2) each, but about `1 + L gamma / (2 lambda)` of them per digit).
        tol: error bound (1) that counts as converged; 1e-11 in float64 and 1e-4 in float32 unless
            given. Raised to the rounding floor. Traced.
        max_steps: static; 60 for "newton", 20,000 for "sweep" unless given.

    Raises:
        ValueError: for an unknown method.
    """
    if method not in ("newton", "sweep"):
        raise ValueError(f"method is {method!r}; choose 'newton' or 'sweep'")
    still = lax.stop_gradient(game)
    valid = _usable(still)
    safe = jax.tree.map(lambda leaf: jnp.where(valid, leaf, jnp.ones_like(leaf)), still)
    if tol is None:
        tol = 1e-11 if game.entry.dtype == jnp.float64 else 1e-4
    goal = jnp.maximum(jnp.asarray(tol, game.entry.dtype), _rounding(safe))
    limit = max_steps or (60 if method == "newton" else 20_000)
    price, steps = (_newton if method == "newton" else _sweeps)(safe, goal, limit)
    found = valid & (_bound(safe, price) <= goal)

    price = attach_price_derivative(price, game, found)
    flow = sweep(game, price)
    again = sweep(still, lax.stop_gradient(game.congestion[:, None] * flow.load))
    residual = jnp.abs(again.load - lax.stop_gradient(flow.load)).sum(-1).max()
    blank = jnp.where(valid, 1, jnp.nan).astype(residual.dtype)
    bound = jnp.minimum(_bound(safe, lax.stop_gradient(price)) + _rounding(safe), 2)
    status = jnp.where(found, Status.CONVERGED, Status.STEP_LIMIT)
    return LayeredSolution(
        load=flow.load * blank,
        policy=flow.policy * blank,
        continuation=flow.continuation * blank,
        price=game.congestion[:, None] * flow.load * blank,
        residual=residual * blank,
        error_bound=jnp.where(valid, bound, jnp.inf),
        steps=jnp.where(valid, steps, 0),
        status=jnp.where(valid, status, Status.BAD_INPUT).astype(int),
    )


def solve_layers_apart(game: LayeredGame, load: Float[Array, "layer expert"]) -> Solution:
    """Each layer's own equilibrium: tokens do not look ahead (the myopic one of Theorem 5.8).

    Layer l is a game of as many types as experts, one per expert that tokens come from.

    Args:
        game: one stack of layers.
        load: of every layer, which fixes how many tokens come from where. The theorem compares at
            the load of the coupled equilibrium.

    Returns:
        A `Solution` with leading axis `layer`; `type_load[l, i]` is the choice of tokens from i.
    """

    def layer(quality, congestion, arrived):
        return solve_equilibrium(Game(quality, congestion, game.temperature, arrived))

    uniform = jnp.full((1, game.experts), 1 / game.experts, load.dtype)
    arrived = jnp.concatenate([uniform, load[:-1]])
    return jax.vmap(layer)(game.stacked, game.congestion, arrived)


@jax.custom_jvp
def attach_price_derivative(
    price: Float[Array, "layer expert"], game: LayeredGame, found: Bool[Array, ""]
) -> Float[Array, "layer expert"]:
    """Identity in `price`, with the implicit derivative of `p = gamma f(p)` where `found`, else NaN."""
    del game, found
    return price


@attach_price_derivative.defjvp
@full_precision
def _attach_price_derivative_jvp(primals, tangents):
    solved, game, found = primals
    price = attach_price_derivative(solved, game, found)
    valid = jnp.where(found, 1, jnp.nan).astype(price.dtype)
    moved = jax.tree.map(lambda leaf: leaf * valid, tangents[1])
    _, push = jax.jvp(lambda g: g.congestion[:, None] * sweep(g, price).load, (game,), (moved,))
    size = price.size
    covariance = load_covariance(sweep(game, price)).reshape(size, size)
    steep = jnp.repeat(game.congestion / game.temperature, game.experts)
    matrix = jnp.eye(size, dtype=price.dtype) + steep[:, None] * covariance
    return price, jnp.linalg.solve(matrix, push.reshape(-1)).reshape(price.shape)


def _usable(game: LayeredGame) -> Bool[Array, ""]:
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(game)]).all()
    return finite & (game.temperature > 0) & (game.congestion >= 0).all()


def _bound(game: LayeredGame, price) -> Float[Array, ""]:
    """(1) at the loads of `price`."""
    off = game.congestion[:, None] * sweep(game, price).load - price
    return (off.max(-1) - off.min(-1)).sum() / (2 * game.temperature)


def _rounding(game: LayeredGame) -> Float[Array, ""]:
    """What rounding of logits and loads can do to (1): errors add up over the layers."""
    reach = jnp.abs(game.entry).max() + jnp.abs(game.quality).max(initial=0)
    logits = 1 + reach / game.temperature + game.congestion.max() / game.temperature
    return 8 * jnp.finfo(game.entry.dtype).eps * game.layers**2 * logits


def _start(game: LayeredGame):
    even = jnp.full((game.layers, game.experts), 1 / game.experts, game.entry.dtype)
    return jnp.sqrt(game.congestion)[:, None] * even


def _newton(game: LayeredGame, goal, limit: int):
    root = jnp.sqrt(game.congestion)[:, None]
    width = jnp.repeat(root[:, 0], game.experts)

    def measure(at):
        flow = sweep(game, root * at)
        return 0.5 * (at**2).sum() + flow.value, at - root * flow.load, flow

    def advance(state):
        at, steps, _ = state
        objective, gradient, flow = measure(at)
        size = at.size
        covariance = load_covariance(flow).reshape(size, size)
        hessian = jnp.eye(size, dtype=at.dtype)
        hessian = hessian + width[:, None] * covariance * width[None] / game.temperature
        step = -solve_dense(hessian, gradient.reshape(-1), assume_a="pos").reshape(at.shape)
        slope = (gradient * step).sum()
        rounding = 8 * jnp.finfo(at.dtype).eps * (1 + jnp.abs(objective))

        def short(search):
            scale, count = search
            lower, there, _ = measure(at + scale * step)
            enough = lower <= objective + ARMIJO * scale * slope + rounding
            # Near the solution changes of the objective are rounding: a halved gradient will do.
            flatter = jnp.abs(there).max() <= 0.5 * jnp.abs(gradient).max()
            return ~(enough | flatter) & (count < HALVINGS)

        one = jnp.ones((), at.dtype)
        scale, _ = while_loop(short, lambda s: (s[0] / 2, s[1] + 1), (one, 0), game)
        at = at + scale * step
        return at, steps + 1, _bound(game, root * at)

    def unfinished(state):
        return (state[2] > goal) & (state[1] < limit)

    at = _start(game)
    at, steps, _ = while_loop(unfinished, advance, (at, 0, _bound(game, root * at)), game)
    return root * at, steps


def _sweeps(game: LayeredGame, goal, limit: int):
    """Gradient steps on the dual, short enough for the largest covariance, L / 2, that there can be."""
    share = 1 / (1 + game.congestion.max() * game.layers / (2 * game.temperature))

    def advance(state):
        price, steps, _ = state
        off = game.congestion[:, None] * sweep(game, price).load - price
        bound = (off.max(-1) - off.min(-1)).sum() / (2 * game.temperature)
        return jnp.where(bound > goal, price + share * off, price), steps + 1, bound

    def unfinished(state):
        return (state[2] > goal) & (state[1] < limit)

    price = jnp.sqrt(game.congestion)[:, None] * _start(game)
    first = jnp.full((), jnp.inf, price.dtype)
    price, steps, _ = while_loop(unfinished, advance, (price, 0, first), game)
    return price, steps
