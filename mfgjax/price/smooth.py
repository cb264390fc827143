"""A smooth congestion at the level of tokens, for a loss or a controller.

The top-K is softened at a temperature tau to `m_i = sigmoid((score_i - gamma f_i - t) / tau)`, t such that the
m_i of a token sum to K, and gamma solves

    H(gamma) = sum_i f_i (load_i(gamma) - f_i) = 0,    load = mean over tokens of m / K,                (1)

the first-order condition of a convex function (so one root), and as tau -> 0 the `projection` of
`token_congestion.py`. Derivatives are implicit: `d gamma = -(dH at fixed gamma) / (dH / d gamma)`.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfgjax.numerics.roots import bisect
from mfgjax.numerics.status import Status

_HALVINGS, _POLISH = 14, 4
_DOUBLINGS, _STEPS = 60, 80


class SmoothCongestion(eqx.Module):
    """Solution of (1).

    Attributes:
        congestion: the root, differentiable in score, load and temperature; NaN where unsolved.
        residual: `|H|` there.
        error_bound: width of the bracket in which H changes its sign, so a bound on the error.
        status: a `Status`: `CONVERGED`, `STEP_LIMIT` (the bracket is still wider than rounding; the error
            bound says how wide), `UNIDENTIFIED` (a price that is a line in a uniform load moves nothing) or
            `BAD_INPUT` (congestion is NaN in the last two).
    """

    congestion: Float[Array, ""]
    residual: Float[Array, ""]
    error_bound: Float[Array, ""]
    status: Int[Array, ""]


@partial(jax.jit, static_argnames="top_k")
def smooth_token_congestion(
    score: Float[Array, "token expert"],
    load: Float[Array, " expert"],
    top_k: int,
    temperature: float | Float[Array, ""] = 0.1,
) -> SmoothCongestion:
    """Solve (1) for one layer; batch with `jax.vmap`. Forward and reverse mode.

    Args:
        score: what the price is added to.
        load: observed, sums to 1.
        top_k: experts per token. Static.
        temperature: of the softened choice, in score units. Traced. At 0.1 of the spread of the scores
            the answer differs from the hard one by a few per cent.
    """
    temperature = jnp.asarray(temperature, score.dtype)
    inputs = (score, load, temperature)
    sound = jnp.isfinite(score).all() & jnp.isfinite(load).all() & (temperature > 0)
    uneven = jnp.ptp(load) > 8 * jnp.finfo(load.dtype).eps
    safe = jax.tree.map(jnp.nan_to_num, (score, load, jnp.where(temperature > 0, temperature, 1)))
    low, high, root = _search(top_k, *jax.lax.stop_gradient(safe))
    width = high - low
    # Rounding of H over its slope: below it the bracket cannot be told apart.
    floor = 64 * jnp.finfo(score.dtype).eps * (1 + jnp.abs(root))
    status = jnp.where(width <= floor, Status.CONVERGED, Status.STEP_LIMIT)
    status = jnp.where(uneven, status, Status.UNIDENTIFIED)
    status = jnp.where(sound, status, Status.BAD_INPUT)
    solved = status <= Status.STEP_LIMIT
    congestion = _implicit(top_k, jnp.where(solved, root, jnp.nan), *inputs)
    return SmoothCongestion(
        congestion,
        jnp.where(solved, jnp.abs(_imbalance(top_k, root, *jax.lax.stop_gradient(safe))), jnp.inf),
        jnp.where(solved, width, jnp.inf),
        status.astype(jnp.int32),
    )


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def soft_top_k(
    score: Float[Array, "*batch expert"], top_k: int, temperature: Float[Array, ""]
) -> Float[Array, "*batch expert"]:
    """Memberships in (0, 1) that sum to `top_k`: `sigmoid((score - t) / temperature)`."""
    return jax.nn.sigmoid((score - _threshold(score, top_k, temperature)) / temperature)


@soft_top_k.defjvp
def _soft_top_k_jvp(top_k, primals, tangents):
    score, temperature = primals
    threshold = _threshold(score, top_k, temperature)
    scaled = (score - threshold) / temperature
    member = jax.nn.sigmoid(scaled)
    slope = member * jax.nn.sigmoid(-scaled)
    moved = (tangents[0] - scaled * tangents[1]) / temperature
    total = slope.sum(-1, keepdims=True)
    return member, slope * (moved - (slope * moved).sum(-1, keepdims=True) / total)


def _threshold(score, top_k: int, temperature):
    """Root of `sum sigmoid((score - t) / temperature) = top_k`, `[*batch, 1]`."""
    experts = score.shape[-1]
    if top_k == experts:
        return score.min(-1, keepdims=True) - 40 * temperature
    edge = jax.lax.top_k(score, top_k + 1)[0]
    margin = temperature * jnp.log(jnp.asarray(float(experts), score.dtype))
    low, high = edge[..., -1:] - margin, edge[..., -2:-1] + margin

    def beyond(at):
        return jax.nn.sigmoid((score - at) / temperature).sum(-1, keepdims=True) <= top_k

    start = bisect(beyond, low, high, _HALVINGS)
    half = (high - low) * 0.5 ** (_HALVINGS + 1)

    def polish(_, at):
        member = jax.nn.sigmoid((score - at) / temperature)
        slope = (member * (1 - member)).sum(-1, keepdims=True) / temperature
        step = (member.sum(-1, keepdims=True) - top_k) / jnp.where(slope > 0, slope, jnp.inf)
        return jnp.clip(at + step, start - half, start + half)

    return jax.lax.fori_loop(0, _POLISH, polish, start)


def _imbalance(top_k: int, congestion, score, load, temperature):
    """H of (1): never rises in congestion."""
    member = soft_top_k(score - (congestion * load)[None], top_k, temperature)
    return (load * (member.mean(0) / top_k - load)).sum()


def _search(top_k: int, score, load, temperature):
    """A bracket of the root, and the root: bisection with Newton steps that stay inside.

    Not `numerics.roots`: each value is a pass over all tokens, of which Newton's method saves most.
    """

    def value(at):
        return _imbalance(top_k, at, score, load, temperature)

    reach = (score.std() + temperature) / jnp.maximum(jnp.ptp(load), jnp.finfo(load.dtype).tiny)

    def widen(state):
        low, high, count = state
        return (
            jnp.where(value(low) < 0, 2 * low, low),
            jnp.where(value(high) > 0, 2 * high, high),
            count + 1,
        )

    def short(state):
        low, high, count = state
        return ((value(low) < 0) | (value(high) > 0)) & (count < _DOUBLINGS)

    low, high, _ = jax.lax.while_loop(short, widen, (-reach, reach, 0))
    eps = jnp.finfo(score.dtype).eps

    def step(state):
        low, high, at, count = state
        here, slope = jax.jvp(value, (at,), (jnp.ones_like(at),))
        low, high = jnp.where(here > 0, at, low), jnp.where(here > 0, high, at)
        newton = at - here / jnp.where(slope < 0, slope, -jnp.inf)
        # Every third step just past Newton's aim on the far side, so that both ends close in.
        past = newton + jnp.where(here > 0, 1, -1) * (16 * eps * (1 + jnp.abs(newton)))
        aim = jnp.where(count % 3 == 2, (low + high) / 2, past)
        inside = (aim > low) & (aim < high)
        return low, high, jnp.where(inside, aim, (low + high) / 2), count + 1

    def wide(state):
        low, high, _, count = state
        return (high - low > 32 * eps * (1 + jnp.abs(low))) & (count < _STEPS)

    low, high, _, _ = jax.lax.while_loop(wide, step, (low, high, (low + high) / 2, 0))
    return low, high, (low + high) / 2


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _implicit(top_k: int, root, score, load, temperature):
    """The root, with the derivative of the root of (1)."""
    return root


@_implicit.defjvp
def _implicit_jvp(top_k, primals, tangents):
    root, *inputs = primals
    fixed = partial(_imbalance, top_k)
    _, moved = jax.jvp(lambda *x: fixed(root, *x), tuple(inputs), tuple(tangents[1:]))
    _, slope = jax.jvp(lambda at: fixed(at, *inputs), (root,), (jnp.ones_like(root),))
    return root, -moved / slope
