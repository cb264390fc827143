"""Pseudo-arclength continuation of `residual(state, parameter) = 0` (Keller, 1977).

A branch is followed along its arclength instead of along the parameter, so it passes folds. Each
step predicts along the tangent and corrects by Newton on the bordered system

    residual(x, p) = 0,      tangent . ((x, p) - predicted) = 0,                          (1)

which stays regular at a fold. The residual must be a gradient (symmetric Jacobian in `state`), as
the router's is: then all eigenvalues are real and the number of positive ones, the *index*, tells
special points apart, also where the kernel has even dimension and the determinant keeps its sign.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mfgjax.numerics.status import NamedInteger

Residual = Callable[[Float[Array, " n"], Float[Array, ""]], Float[Array, " n"]]


class BranchStatus(NamedInteger):
    """Why a branch ends."""

    LEFT_RANGE = 0
    """The parameter left `parameter_range`: the normal end."""
    MAX_POINTS = 1
    """All points used: raise `max_points` or `max_step` to follow further."""
    STEP_TOO_SMALL = 2
    """The corrector failed at `min_step`: bad start, or a singularity of the residual."""


class Branch(eqx.Module):
    """A followed branch; entries past `points` are NaN.

    Attributes:
        state: the points.
        parameter: the parameter at each point.
        tangent: unit tangent in (state, parameter); its last entry changes sign at a fold.
        rates: eigenvalues of the Jacobian in `state`, ascending; all negative is stable.
        residual: largest absolute residual, recomputed at each accepted point.
        points: number of valid points.
        status: a `BranchStatus`.
    """

    state: Float[Array, "points n"]
    parameter: Float[Array, " points"]
    tangent: Float[Array, "points n+1"]
    rates: Float[Array, "points n"]
    residual: Float[Array, " points"]
    points: Int[Array, ""]
    status: Int[Array, ""]

    @property
    def index(self) -> Int[Array, " points"]:
        """Number of unstable directions at each point."""
        return (self.rates > 0).sum(axis=-1)

    @property
    def stable(self) -> Bool[Array, " points"]:
        return self.rates[:, -1] < 0


def correct(
    residual: Residual,
    guess: Float[Array, " n+1"],
    normal: Float[Array, " n+1"],
    anchor: Float[Array, " n+1"],
    *,
    max_steps: int = 8,
) -> tuple[Float[Array, " n+1"], Bool[Array, ""], Int[Array, ""]]:
    """Newton on (1), in the plane through `anchor` normal to `normal`.

    Returns:
        The point, whether the residual reached its rounding floor, and the Newton steps taken.
    """
    tol = 200.0 * jnp.finfo(guess.dtype).eps

    def system(point):
        inside = residual(point[:-1], point[-1])
        return jnp.concatenate([inside, (normal @ (point - anchor))[None]])

    def unfinished(state):
        point, value, step = state
        return (jnp.abs(value).max() > tol * (1.0 + jnp.abs(point).max())) & (step < max_steps)

    def newton(state):
        point, value, step = state
        point = point - jnp.linalg.solve(jax.jacfwd(system)(point), value)
        return point, system(point), step + 1

    point, value, steps = lax.while_loop(unfinished, newton, (guess, system(guess), jnp.asarray(0)))
    done = jnp.abs(value).max() <= tol * (1.0 + jnp.abs(point).max())  # False for NaN
    return point, done, steps


def tangent_at(
    residual: Residual, point: Float[Array, " n+1"], along: Float[Array, " n+1"]
) -> Float[Array, " n+1"]:
    """Unit tangent of the branch at `point`, on the side of `along`."""
    jacobian = jax.jacfwd(lambda y: residual(y[:-1], y[-1]))(point)
    bordered = jnp.concatenate([jacobian, along[None, :]])
    direction = jnp.linalg.solve(bordered, jnp.zeros_like(point).at[-1].set(1.0))
    return direction / jnp.linalg.norm(direction)


def trace_branch(
    residual: Residual,
    state: Float[Array, " n"],
    parameter: Float[Array, ""],
    direction: Float[Array, " n+1"],
    *,
    parameter_range: tuple[float | Float[Array, ""], float | Float[Array, ""]],
    step: float | Float[Array, ""] = 0.05,
    min_step: float | Float[Array, ""] = 1e-6,
    max_step: float | Float[Array, ""] = 0.2,
    max_points: int = 400,
) -> Branch:
    """Follow the branch through `(state, parameter)` on the side of `direction`.

    Args:
        residual: residual function, jax-traceable, symmetric Jacobian in `state`; a plain function
            or a callable `eqx.Module`.
        state, parameter: a point on the branch, or near it: corrected first, in the plane normal to
            `direction`.
        direction: where to go, in (state, parameter) space; need not be the exact tangent.
        parameter_range: where to stop; the last point is put on the edge. Traced, as are the step
            sizes (in arclength, units of state and parameter together).
        max_points: static.

    Returns:
        A `Branch`. Not meant to be differentiated.
    """
    low, high = parameter_range
    start = jnp.append(state, parameter)
    unit = direction / jnp.linalg.norm(direction)
    first, ok, _ = correct(residual, start, unit, start, max_steps=20)

    def advance(front: _Front, _):
        record = _record(residual, front.point, front.tangent, front.going)
        stepping = front.going & (front.status == BranchStatus.MAX_POINTS)
        attempt = _step(residual, front, stepping, min_step, max_step)
        moved, going = attempt.point, stepping & attempt.accepted
        leaving = going & ((moved[-1] < low) | (moved[-1] > high))
        edge = _at(residual, jnp.where(moved[-1] > high, high, low), front.point, moved)
        status = jnp.where(stepping & ~going, BranchStatus.STEP_TOO_SMALL, front.status)
        status = jnp.where(leaving, BranchStatus.LEFT_RANGE, status)
        point = jnp.where(leaving, edge, moved)
        return _Front(point, attempt.tangent, attempt.length, going, status), record

    begin = _Front(
        point=first,
        tangent=tangent_at(residual, first, unit),
        length=jnp.asarray(step, state.dtype),
        going=ok,
        status=jnp.where(ok, BranchStatus.MAX_POINTS, BranchStatus.STEP_TOO_SMALL),
    )
    end, rows = lax.scan(advance, begin, None, length=max_points)
    points, tangents, rates, residuals, valid = rows
    return Branch(
        state=points[:, :-1],
        parameter=points[:, -1],
        tangent=tangents,
        rates=rates,
        residual=residuals,
        points=valid.sum(),
        status=end.status,
    )


class _Front(NamedTuple):
    """Where a branch has been followed to: its last point, and whether that is to be recorded.

    The status is `MAX_POINTS` while there is more to follow.
    """

    point: Float[Array, " n+1"]
    tangent: Float[Array, " n+1"]
    length: Float[Array, ""]
    going: Bool[Array, ""]
    status: Int[Array, ""]


class _Attempt(NamedTuple):
    """One predictor-corrector step, and the length of the next."""

    point: Float[Array, " n+1"]
    tangent: Float[Array, " n+1"]
    length: Float[Array, ""]
    accepted: Bool[Array, ""]


def _step(residual, front: _Front, wanted, min_step, max_step) -> _Attempt:
    """A step along the tangent, halved until the corrector holds; none where it is not `wanted`."""

    def shrink(attempt: _Attempt) -> _Attempt:
        guess = front.point + attempt.length * front.tangent
        found, done, steps = correct(residual, guess, front.tangent, guess)
        turned = tangent_at(residual, found, front.tangent)
        # a sharp turn means that the corrector may have jumped to another branch
        accepted = done & (turned @ front.tangent > 0.9)
        longer = jnp.minimum(jnp.where(steps <= 3, 1.5, 1.0) * attempt.length, max_step)
        return _Attempt(found, turned, jnp.where(accepted, longer, 0.5 * attempt.length), accepted)

    begin = _Attempt(front.point, front.tangent, front.length, ~wanted)
    return lax.while_loop(lambda a: ~a.accepted & (a.length >= min_step), shrink, begin)


def _at(residual, parameter, before, beyond):
    """The point of the branch at `parameter`, between two of its points."""
    share = (parameter - before[-1]) / (beyond[-1] - before[-1])
    guess = (before + share * (beyond - before)).at[-1].set(parameter)
    rise = jnp.zeros_like(before).at[-1].set(1.0)
    found, _, _ = correct(residual, guess, rise, guess)
    return found


def _record(residual, point, tangent, valid):
    value = residual(point[:-1], point[-1])
    rates = jnp.linalg.eigvalsh(jax.jacfwd(residual)(point[:-1], point[-1]))
    rows = (point, tangent, rates, jnp.abs(value).max())
    return (*(jnp.where(valid, row, jnp.nan) for row in rows), valid)
