"""Folds and branch points between the points of a branch, refined, and the branches that leave them.

Between two neighbouring points the index (number of unstable directions) changes by one or more; the
eigenvalue that crosses zero is located along the arclength by bisection with a corrected point at
each trial. At a fold one eigenvalue crosses and the parameter turns round; anything else is a branch
point, with a kernel of dimension `|index change|` (M - 1 where the uniform load of M equal experts
loses stability).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfgjax.bifurcation.arclength import Branch, Residual, correct, tangent_at
from mfgjax.numerics.roots import bisect
from mfgjax.numerics.status import NamedInteger


class PointKind(NamedInteger):
    """What a special point is."""

    FOLD = 0
    """Two branches meet and vanish; the parameter turns round."""
    BRANCH_POINT = 1
    """Other branches cross here, the parameter runs on."""


class SpecialPoint(eqx.Module):
    """One fold or branch point.

    Attributes:
        state, parameter: where it is.
        kind: a `PointKind`.
        position: index into the branch of the point before it.
        crossing: number of eigenvalues that cross zero.
        rate: the eigenvalue left over, largest in size of those that cross; 0 in exact arithmetic.
        kernel: orthonormal rows: the directions that lose stability.
        tangent: tangent of the branch in (state, parameter).
    """

    state: Float[Array, " n"]
    parameter: Float[Array, ""]
    kind: PointKind = eqx.field(static=True)
    position: int = eqx.field(static=True)
    crossing: int = eqx.field(static=True)
    rate: Float[Array, ""]
    kernel: Float[Array, "crossing n"]
    tangent: Float[Array, " n+1"]


def special_points(residual: Residual, branch: Branch, *, halvings: int = 40) -> list[SpecialPoint]:
    """All special points of a branch, in order. Host-side: loops over the index changes.

    Args:
        residual: the function that the branch was traced with.
        branch: one branch, not a batch.
        halvings: bisection steps; the error along the arclength is the step over 2^halvings.
    """
    points = int(branch.points)
    index = (np.asarray(branch.rates)[:points] > 0).sum(-1)
    turning = np.asarray(branch.tangent)[:, -1]
    found = []
    for position in np.flatnonzero(np.diff(index)):
        before, after = int(index[position]), int(index[position + 1])
        crossing = abs(after - before)
        # ascending eigenvalues: those between the two indices cross
        where = branch.state.shape[1] - max(before, after)
        target = where + crossing // 2  # the middle one of those that cross together
        refined = _refine(residual, branch, np.asarray(position), np.asarray(target), halvings)
        point, tangent, rates, vectors = jax.device_get(refined)
        fold = crossing == 1 and turning[position] * turning[position + 1] < 0
        found.append(
            SpecialPoint(
                state=point[:-1],
                parameter=point[-1],
                kind=PointKind.FOLD if fold else PointKind.BRANCH_POINT,
                position=int(position),
                crossing=crossing,
                rate=np.abs(rates[where : where + crossing]).max(),
                kernel=vectors[:, where : where + crossing].T,
                tangent=tangent,
            )
        )
    return found


@eqx.filter_jit
def _refine(residual, branch, position, target, halvings):
    start = jnp.append(branch.state[position], branch.parameter[position])
    end = jnp.append(branch.state[position + 1], branch.parameter[position + 1])
    tangent = branch.tangent[position]
    full = tangent @ (end - start)
    sign = jnp.sign(branch.rates[position, target])

    def at(length):
        # off the chord, not the tangent: a chord stays near the branch on both ends
        guess = start + (length / full) * (end - start)
        point, _, _ = correct(residual, guess, tangent, guess)
        return point, jax.jacfwd(residual)(point[:-1], point[-1])

    def beyond(length):
        return ~(jnp.linalg.eigvalsh(at(length)[1])[target] * sign > 0)

    point, jacobian = at(bisect(beyond, jnp.zeros_like(full), full, halvings))
    rates, vectors = jnp.linalg.eigh(jacobian)
    return point, tangent, rates, vectors


def switch_directions(point: SpecialPoint) -> Float[np.ndarray, "directions n"]:
    """Unit directions in which other branches may leave a branch point.

    A kernel of dimension one gives its two signs. In a larger one every direction is a candidate to
    first order; with experts as coordinates the branches leave along the axes of the symmetry, so
    the candidates are each expert's own direction, projected on the kernel, with both signs.
    """
    kernel = np.asarray(point.kernel)
    if point.crossing == 1:
        candidates = kernel
    else:
        candidates = kernel.T @ kernel
        size = np.linalg.norm(candidates, axis=1)
        candidates = candidates[size > 1e-6] / size[size > 1e-6][:, None]
    return np.concatenate([candidates, -candidates])


def switch_branch(
    residual: Residual,
    point: SpecialPoint,
    direction: Float[Array | np.ndarray, " n"],
    *,
    offset: float = 0.02,
) -> tuple[Float[Array, " n"], Float[Array, ""], Float[Array, " n+1"], bool]:
    """A first point on the branch that leaves `point` along `direction`.

    The corrector is held at distance `offset` from the branch point along `direction` with the
    parameter free, so it cannot fall back to the branch it came from.

    Returns:
        State, parameter, direction away from the branch point, and whether the corrector converged.
    """
    origin = np.append(point.state, point.parameter)
    unit = np.append(direction, np.zeros((), direction.dtype))
    switched = _switch(residual, origin, unit, np.asarray(offset, unit.dtype))
    found, away, done = jax.device_get(switched)
    return found[:-1], found[-1], away, bool(done)


@eqx.filter_jit
def _switch(residual, origin, unit, offset):
    guess = origin + offset * unit
    found, done, _ = correct(residual, guess, unit, guess, max_steps=30)
    away = tangent_at(residual, found, unit)
    return found, away, done
