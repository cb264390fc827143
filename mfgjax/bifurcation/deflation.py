"""All equilibria at negative congestion by deflated Newton (Farrell, Birkisson and Funke, 2015).

Once a root `r` is known, the residual is multiplied by `1/|x - r|^2 + 1`, so that Newton from the
same start cannot return to it and finds another or fails. The deflated Newton step is the plain one
times a scalar, so deflating costs O(roots M) beside the O(M^3) solve. Heuristic by nature: it
certifies every root it returns, not that there is no other. Two experts (`two_expert_states`) and
equal experts (`symmetric`) have complete closed-form lists; the tests compare with both.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mfgjax.bifurcation.stability import growth_rates, logit_drift

EVERY_SUBSET = 6
"""Most experts for which every subset is tried as a start: 2^M - 2 of them."""


REACH = 0.2
"""Distance in logits over which a known root repels: `(REACH / |x - r|)^2 + 1`."""


class Equilibria(eqx.Module):
    """The equilibria found for one router; rows past `count` are NaN.

    Attributes:
        load: loads, one row per equilibrium, in order of discovery.
        logits: the logits `quality + feedback * load` at each.
        growth: largest growth rate; negative is stable.
        unstable: number of unstable directions.
        residual: largest absolute drift of the logits.
        count: how many were found.
        degree: sum of (-1)^unstable over those found. The drift points inwards far out, so over all
            (non-degenerate) equilibria it is 1: another value proves that some were missed. The
            converse does not hold, a fold's pair cancels.
        full: True if every slot was used, so that there may be more.
    """

    load: Float[Array, "slots experts"]
    logits: Float[Array, "slots experts"]
    growth: Float[Array, " slots"]
    unstable: Int[Array, " slots"]
    residual: Float[Array, " slots"]
    count: Int[Array, ""]
    degree: Int[Array, ""]
    full: Bool[Array, ""]

    @property
    def stable(self) -> Bool[Array, " slots"]:
        return self.growth < 0


def deflated_equilibria(
    quality: Float[Array, " experts"],
    feedback: Float[Array, ""],
    *,
    slots: int = 16,
    max_steps: int = 60,
    starts: Float[Array, "starts experts"] | None = None,
) -> Equilibria:
    """Equilibria of `load ∝ exp(quality + feedback * load)`, of either sign of feedback.

    Args:
        quality: in logits, that is, divided by the temperature.
        feedback: minus the congestion, divided by the temperature.
        slots: static bound on the number of equilibria kept.
        max_steps: static bound on the Newton steps of one attempt.
        starts: logits to start from, each until its deflated attempt fails; default:
            balance, and points on the way from it to every set of experts sharing all load (up to
            six experts; above, one expert or all but one). The roots found follow as starts.
    """
    size = quality.shape[0]
    if starts is None:
        starts = quality[None, :] + feedback * _start_loads(size, quality.dtype)
    known = jnp.full((slots, size), jnp.inf, quality.dtype)

    first = starts.shape[0]

    def from_start(state, turn):
        known, count = state
        # after the given starts the roots themselves: good starts for their neighbours, for
        # saddles above all
        root = known[jnp.clip(turn - first, 0, slots - 1)]
        given = starts[jnp.clip(turn, 0, first - 1)]
        start = jnp.where((turn >= first) & (turn - first < count), root, given)

        def again(state):
            _, count, succeeded = state
            return succeeded & (count < slots)

        def attempt(state):
            known, count, _ = state
            root, good = _deflated_newton(start, known, quality, feedback, max_steps)
            known = jnp.where(good, known.at[count].set(root), known)
            return known, count + good.astype(count.dtype), good

        known, count, _ = lax.while_loop(again, attempt, (known, count, jnp.asarray(True)))
        return (known, count), None

    turns = jnp.arange(first + slots)
    (known, count), _ = lax.scan(from_start, (known, jnp.asarray(0)), turns)
    present = jnp.arange(slots) < count
    logits = jnp.where(present[:, None], known, jnp.nan)
    load = jax.nn.softmax(logits, axis=-1)
    rates = jax.vmap(lambda mu: growth_rates(mu, feedback))(
        jnp.where(present[:, None], load, 1.0 / size)
    )
    unstable = (rates > 0).sum(axis=-1)
    drift = jax.vmap(lambda z: logit_drift(z, feedback, quality))(logits)
    return Equilibria(
        load=load,
        logits=logits,
        growth=jnp.where(present, rates[:, -1], jnp.nan),
        unstable=jnp.where(present, unstable, -1),
        residual=jnp.abs(drift).max(axis=-1),
        count=count,
        degree=jnp.where(present, 1 - 2 * (unstable % 2), 0).sum(),
        full=count == slots,
    )


def _start_loads(size: int, dtype) -> Float[Array, "starts experts"]:
    """Balance, and points from it to each set of experts sharing all load. Static."""
    if size <= EVERY_SUBSET:
        sets = np.array(list(itertools.product([0.0, 1.0], repeat=size)))[1:-1]
    else:
        sets = np.concatenate([np.eye(size), 1.0 - np.eye(size)])
    corners = sets / sets.sum(axis=1, keepdims=True)
    even = np.full((1, size), 1.0 / size)
    ways = [even + share * (corners - even) for share in (0.1, 0.3, 0.6, 1.0)]
    return jnp.asarray(np.concatenate([even, *ways]), dtype)


def _deflated_newton(start, known, quality, feedback, max_steps):
    eps = jnp.finfo(start.dtype).eps
    tol = 50.0 * eps * (1.0 + jnp.abs(feedback) + jnp.abs(quality).max())
    jacobian = jax.jacfwd(lambda z: logit_drift(z, feedback, quality))

    def slope_of_log(z):
        """Gradient of the log of the deflation factor; unused slots sit at infinity."""
        used = jnp.isfinite(known[:, 0])
        gap = z[None, :] - jnp.where(used[:, None], known, 0.0)
        square = (gap**2).sum(axis=1)
        weight = jnp.where(used, -2.0 / (square * (1.0 + square / REACH**2)), 0.0)
        return (weight[:, None] * gap).sum(axis=0)

    def unfinished(state):
        _, value, step = state
        return (jnp.abs(value).max() > tol) & (step < max_steps)

    def newton(state):
        z, value, step = state
        plain = jnp.linalg.solve(jacobian(z), -value)
        # Sherman-Morrison: the deflated step is the plain one divided by 1 - slope . plain
        scale = 1.0 / (1.0 - slope_of_log(z) @ plain)
        move = scale * plain
        limit = 2.0 + 0.5 * jnp.abs(feedback)
        move = move * jnp.minimum(1.0, limit / (jnp.linalg.norm(move) + eps))
        z = z + move
        return z, logit_drift(z, feedback, quality), step + 1

    begin = start + 1e-3 * jnp.cos(jnp.arange(start.shape[0], dtype=start.dtype))
    z, value, _ = lax.while_loop(
        unfinished, newton, (begin, logit_drift(begin, feedback, quality), 0)
    )
    distance = jnp.sqrt(((z[None, :] - known) ** 2).sum(axis=1)).min()
    good = (jnp.abs(value).max() <= tol) & (distance > 1e-4 * (1.0 + jnp.abs(feedback)))
    return z, good
