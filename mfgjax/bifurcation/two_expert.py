"""Two experts: every equilibrium, its stability and the exact fold curves.

In units of the decay time the score gap `z` of two experts (half the logit difference) obeys

    z' = -z + strength g(z) + asymmetry = -V'(z),                                         (1)

with `g` a `Response` and load gap `load_1 - load_2 = g(z)`. `g` bends inwards, so the right side is
monotone on each of three pieces cut at the turning gaps, and every equilibrium sits alone in a
bracket that is known in advance: none can be missed and none found twice.

Folds: `strength = 1 / g'(z)`, `asymmetry = z - g(z) / g'(z)`; for softmax `strength = cosh^2 z`,
`asymmetry = z - sinh(2z) / 2`. They meet in a cusp at (1, 0). Derived here.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mfgjax.bifurcation.response import SOFTMAX, Response
from mfgjax.numerics.status import NamedInteger


class StateStatus(NamedInteger):
    """What stands in one of the three slots of a `TwoExpertStates`."""

    FOUND = 0
    """An equilibrium, its residual at the rounding floor."""
    ABSENT = 1
    """There is no equilibrium in this piece; the numbers are NaN."""
    MAX_STEPS = 2
    """The bracket holds one, but it was not reached in the steps allowed."""
    BAD_INPUT = 3
    """Strength negative, or an input not finite."""


class TwoExpertStates(eqx.Module):
    """The up to three equilibria of (1), in the order expert 2 leads, between, expert 1 leads.

    With one equilibrium only, it sits in the slot of the leading expert (expert 1 at a tie, where
    the state is balanced).

    Attributes:
        gap: `z`, half the logit difference.
        load_gap: `load_1 - load_2`, in [-1, 1].
        rate: linear growth rate of a perturbation, per decay time: negative is stable.
        status: a `StateStatus` per slot.
    """

    gap: Float[Array, "*batch 3"]
    load_gap: Float[Array, "*batch 3"]
    rate: Float[Array, "*batch 3"]
    status: Int[Array, "*batch 3"]

    @property
    def found(self) -> Bool[Array, "*batch 3"]:
        return self.status == StateStatus.FOUND

    @property
    def stable(self) -> Bool[Array, "*batch 3"]:
        return self.found & (self.rate < 0)


def drift(
    gap: Float[Array, ""],
    strength: Float[Array, ""],
    asymmetry: Float[Array, ""],
    response: Response = SOFTMAX,
) -> Float[Array, ""]:
    """Right side of (1)."""
    return strength * response.value(gap) - gap + asymmetry


def potential(
    gap: Float[Array, ""],
    strength: Float[Array, ""],
    asymmetry: Float[Array, ""],
    response: Response = SOFTMAX,
) -> Float[Array, ""]:
    """`V` of (1): its minima are the stable states, its maximum bounds their basins."""
    return 0.5 * gap**2 - strength * response.integral(gap) - asymmetry * gap


def fold_asymmetry(strength: Float[Array, ""], response: Response = SOFTMAX) -> Float[Array, ""]:
    """Half-width `H >= 0` of the bistable wedge: three equilibria where `|asymmetry| < H`.

    Zero at and below strength 1, where its derivative is zero too (the cusp).
    """
    wedge = strength > 1.0
    inside = jnp.where(wedge, strength, 2.0)  # keeps the untaken branch differentiable
    gap = response.turning(inside)
    return jnp.where(wedge, inside * response.value(gap) - gap, 0.0)


def cusp_asymmetry(strength: Float[Array, ""], response: Response = SOFTMAX) -> Float[Array, ""]:
    """Leading order of `fold_asymmetry` at the cusp, from `z' = H + (s - 1) z - c z^3`.

    `H^2 = 4 (s - 1)^3 / (27 c)`; for softmax `c = 1/3` and `H^2 = (4/9)(s - 1)^3`.
    """
    excess = jnp.maximum(strength - 1.0, 0.0)
    return 2.0 * excess * jnp.sqrt(excess / (27.0 * response.cubic))


def two_expert_states(
    strength: Float[Array, ""],
    asymmetry: Float[Array, ""],
    response: Response = SOFTMAX,
    *,
    max_steps: int = 64,
) -> TwoExpertStates:
    """All equilibria of (1) with their stability.

    Differentiable in `strength` and `asymmetry` by the implicit function theorem (`gap` and
    `load_gap`), to any order, in both modes; NaN where there is no equilibrium and infinite at a
    fold. Never raises on values: read `status`.

    Args:
        strength: feedback strength, half of `ReinforcedRouter.feedback`; non-negative.
        asymmetry: field, in units of the gap.
        response: static.
        max_steps: static bound on the steps of one root; bisection alone needs about 60.
    """
    frozen = lax.stop_gradient((strength, asymmetry))
    lower, upper, present, valid = _brackets(*frozen, response)
    root, converged = jax.vmap(lambda a, b, sign: _root(a, b, sign, *frozen, response, max_steps))(
        lower, upper, jnp.asarray([-1.0, 1.0, -1.0], lower.dtype)
    )
    status = jnp.where(converged, StateStatus.FOUND, StateStatus.MAX_STEPS)
    status = jnp.where(present, status, StateStatus.ABSENT)
    status = jnp.where(valid, status, StateStatus.BAD_INPUT)
    found = status == StateStatus.FOUND
    gap = jax.vmap(lambda z, ok: _attach_derivative(z, strength, asymmetry, ok, response))(
        jnp.where(found, root, jnp.nan), found
    )
    return TwoExpertStates(
        gap=gap,
        load_gap=response.value(gap),
        rate=strength * response.slope(gap) - 1.0,
        status=status,
    )


def _brackets(strength, asymmetry, response):
    valid = jnp.isfinite(strength) & jnp.isfinite(asymmetry) & (strength >= 0)
    cut = response.turning(jnp.maximum(strength, 1.0))
    reach = jnp.abs(asymmetry) + strength + 1.0
    lower = jnp.stack([-reach, -cut, cut])
    upper = jnp.stack([-cut, cut, reach])
    wedge = fold_asymmetry(strength, response)
    bent = strength > 1.0
    # Below strength 1 the three pieces meet at zero: the sign of the field says who leads.
    first = jnp.where(bent, asymmetry <= wedge, asymmetry < 0.0)
    between = bent & (jnp.abs(asymmetry) < wedge)
    last = jnp.where(bent, asymmetry >= -wedge, asymmetry >= 0.0)
    return lower, upper, jnp.stack([first, between, last]), valid


def _root(lower, upper, sign, strength, asymmetry, response, max_steps):
    """Newton kept inside a shrinking bracket; `sign` is that of the drift at `upper`."""
    eps = jnp.finfo(lower.dtype).eps

    def residual_floor(gap):
        return 4.0 * eps * (jnp.abs(gap) + strength + jnp.abs(asymmetry))

    def unfinished(state):
        lower, upper, gap, value, step = state
        wide = upper - lower > 2.0 * eps * jnp.maximum(jnp.abs(gap), eps)
        return (jnp.abs(value) > 0.0) & wide & (step < max_steps)

    def refine(state):
        lower, upper, gap, value, step = state
        beyond = value * sign > 0.0
        lower, upper = jnp.where(beyond, lower, gap), jnp.where(beyond, gap, upper)
        newton = gap - value / (strength * response.slope(gap) - 1.0)
        inside = (newton > lower) & (newton < upper)
        # Newton alone may creep along one side; every fourth step halves the bracket
        halve = ~inside | (step % 4 == 3)
        gap = jnp.where(halve, 0.5 * (lower + upper), newton)
        return lower, upper, gap, drift(gap, strength, asymmetry, response), step + 1

    start = 0.5 * (lower + upper)
    first = drift(start, strength, asymmetry, response)
    _, _, gap, value, _ = lax.while_loop(unfinished, refine, (lower, upper, start, first, 0))
    return gap, jnp.abs(value) <= residual_floor(gap)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def _attach_derivative(gap, strength, asymmetry, found, response):
    """Identity in `gap`, with `dgap = (g dstrength + dasymmetry) / (1 - strength g')`.

    A JVP rule, so that reverse mode and higher orders follow; the NaN of an absent state sits in
    the divisor because a `where` outside the rule would turn reverse mode into `0 * nan`.
    """
    del strength, asymmetry, found, response
    return gap


@_attach_derivative.defjvp
def _attach_derivative_jvp(response, primals, tangents):
    gap, strength, asymmetry, found = primals
    _, strength_dot, asymmetry_dot, _ = tangents
    out = _attach_derivative(gap, strength, asymmetry, found, response)
    resistance = jnp.where(found, 1.0 - strength * response.slope(out), jnp.nan)
    return out, (response.value(out) * strength_dot + asymmetry_dot) / resistance


class ControlPlane(eqx.Module):
    """Equilibria over a grid, rows strength, columns asymmetry.

    Attributes:
        strength, asymmetry: the axes.
        count: number of equilibria at each point: 3 inside the cusped wedge, 1 outside.
        gap: the three gaps of `TwoExpertStates`, NaN where absent.
        unsolved: number of slots whose root was not reached (0 expected).
    """

    strength: Float[Array, " rows"]
    asymmetry: Float[Array, " columns"]
    count: Int[Array, "rows columns"]
    gap: Float[Array, "rows columns 3"]
    unsolved: Int[Array, ""]


def control_plane(
    strength: Float[Array, " rows"],
    asymmetry: Float[Array, " columns"],
    response: Response = SOFTMAX,
) -> ControlPlane:
    """Solve every point of the plane; rows one after another, columns together (memory of a row)."""

    def row(strength):
        states = jax.vmap(lambda h: two_expert_states(strength, h, response))(asymmetry)
        missed = (states.status != StateStatus.FOUND) & (states.status != StateStatus.ABSENT)
        return states.found.sum(axis=-1), states.gap, missed.sum()

    count, gap, missed = lax.map(row, strength)
    return ControlPlane(strength, asymmetry, count, gap, jnp.sum(missed))
