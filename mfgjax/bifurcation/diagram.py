"""A whole bifurcation diagram: continue, find special points, switch, and collect lost branches.

Host-side driver. Branches that the balanced one does not meet (a biased pitchfork unfolds into two
pieces) are found at the upper end of the range by `mfgjax.equilibrium.find_equilibria`, the same game
at negative congestion, and followed from there.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from mfgjax.bifurcation.arclength import Branch, trace_branch
from mfgjax.bifurcation.mean_field import LogitDrift
from mfgjax.bifurcation.special_points import (
    PointKind,
    SpecialPoint,
    special_points,
    switch_branch,
    switch_directions,
)
from mfgjax.equilibrium.multiple import find_equilibria
from mfgjax.game import Game


@dataclass(frozen=True)
class Diagram:
    """Branches in feedback for one quality, with their special points.

    Attributes:
        quality: logits of the external preference.
        branches: each as traced; `state` holds logits, the softmax of which is the load.
        points: for each branch its folds and branch points.
        complete: whether every equilibrium at the upper end is proved to lie on one of the branches;
            a branch that turns back before it (an isola) can still be missing.
    """

    quality: Float[Array, " experts"]
    branches: list[Branch]
    points: list[list[SpecialPoint]]
    complete: bool

    @property
    def folds(self) -> list[float]:
        """Feedback at every fold, ascending."""
        every = itertools.chain.from_iterable(self.points)
        return sorted(float(p.parameter) for p in every if p.kind == PointKind.FOLD)


def feedback_diagram(
    quality: Float[Array, " experts"],
    *,
    feedback_range: tuple[float, float],
    max_step: float = 0.1,
    max_points: int = 400,
    max_branches: int = 24,
) -> Diagram:
    """The equilibria of `load ∝ exp(quality + feedback * load)` over a range of feedback.

    Args:
        quality: external preference of each expert, in logits.
        feedback_range: lower and upper end. The lower end should have one equilibrium, as any
            value at or below 2 has.
        max_step: longest arclength step, in logits and units of feedback.
        max_points, max_branches: bounds on the work. Branches that are equal up to the order
            of the experts are each followed.

    Raises:
        ValueError: the range is empty or not finite.
    """
    low, high = feedback_range
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"feedback_range must be finite and ascending, got ({low}, {high})")
    residual = LogitDrift(quality)
    dtype = quality.dtype
    ends = (np.asarray(low, dtype), np.asarray(high, dtype))
    longest = np.asarray(max_step, dtype)

    def trace(state, parameter, direction):
        return _trace(residual, state, parameter, direction, ends, longest, max_points)

    size = quality.shape[0]
    rise = np.zeros(size + 1, dtype)
    rise[-1] = 1

    def logits_at(feedback):
        """Logits of every equilibrium, and whether there is provably no other."""
        found = find_equilibria(Game(quality, -feedback))
        load = found.load.astype(dtype)
        every = found.high >= min(size, math.ceil(feedback) - 1)
        return np.asarray(quality) + feedback * load, found.complete and every

    start, _ = logits_at(low)
    waiting: list[tuple[Any, Any, Any]] = [(start[0], ends[0], rise)]
    branches: list[Branch] = []
    points: list[list[SpecialPoint]] = []

    def follow_all():
        while waiting and len(branches) < max_branches:
            state, parameter, direction = waiting.pop(0)
            if any(_lies_on(branch, state, parameter, max_step) for branch in branches):
                continue
            branch = jax.device_get(trace(state, parameter, direction))
            if int(branch.points) < 2:
                continue
            special = special_points(residual, branch)
            branches.append(branch)
            points.append(special)
            for point in special:
                if point.kind != PointKind.BRANCH_POINT:
                    continue
                for direction in switch_directions(point):
                    x, p, away, done = switch_branch(residual, point, direction)
                    if done and low <= float(p) <= high:
                        waiting.append((x, p, away))

    follow_all()
    lost, proved = logits_at(high)
    for logits in lost:
        waiting.append((logits, ends[1], -rise))
        follow_all()
    complete = proved and all(
        any(_lies_on(branch, logits, high, max_step) for branch in branches) for logits in lost
    )
    return Diagram(quality=quality, branches=branches, points=points, complete=complete)


@eqx.filter_jit
def _trace(residual, state, parameter, direction, ends, longest, max_points):
    return trace_branch(
        residual,
        state,
        parameter,
        direction,
        parameter_range=ends,
        step=0.5 * longest,
        max_step=longest,
        max_points=max_points,
    )


def _lies_on(branch: Branch, state, parameter, max_step: float) -> bool:
    """Whether a point is on the polygon through the points of a branch, to second order in a step."""
    count = int(branch.points)
    line = np.column_stack([branch.state[:count], branch.parameter[:count]])
    here = np.append(np.asarray(state), float(parameter))
    start, along = line[:-1], np.diff(line, axis=0)
    square = (along**2).sum(axis=1)
    share = np.clip(((here - start) * along).sum(axis=1) / square, 0.0, 1.05)
    return bool(
        np.linalg.norm(start + share[:, None] * along - here, axis=1).min() < 0.1 * max_step
    )
