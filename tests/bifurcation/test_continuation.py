"""Continuation and branch switching against exact curves and an exact enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import lambertw

from mfgjax.bifurcation import symmetric_thresholds
from mfgjax.bifurcation.arclength import BranchStatus, trace_branch
from mfgjax.bifurcation.collapse_fold import collapse_folds
from mfgjax.bifurcation.diagram import feedback_diagram
from mfgjax.bifurcation.mean_field import LogitDrift
from mfgjax.bifurcation.special_points import PointKind
from mfgjax.bifurcation.two_expert import two_expert_states

FOLD_TOL = 1e-6  # asked of folds; reached: about 1e-12


def every_equilibrium(quality, feedback):
    """All of them: each expert on the light or the heavy branch of Lambert's W, one multiplier.

    Independent of Newton, of continuation and of jax; complete up to the grid in the multiplier.
    """
    top = quality.max() + 1 + np.log(feedback)
    grid = top + np.concatenate([[1e-13], np.geomspace(1e-9, 30, 2001)])
    found = []
    for pattern in itertools.product((0, -1), repeat=len(quality)):

        def load(multiplier, pattern=pattern):
            pairs = zip(quality, pattern, strict=True)
            scaled = [lambertw(-feedback * np.exp(q - multiplier), k) for q, k in pairs]
            return -np.real(scaled) / feedback

        total = load(grid).sum(axis=0) - 1
        for i in np.flatnonzero(np.sign(total[:-1]) * np.sign(total[1:]) < 0):
            root = brentq(lambda nu: load(nu).sum() - 1, grid[i], grid[i + 1], xtol=1e-14)
            found.append(load(root))
    return np.array(found)


def test_symmetric_diagram_switches_onto_all_collapsed_branches():
    diagram = feedback_diagram(jnp.zeros(3), feedback_range=(1.0, 4.0))
    fold = float(symmetric_thresholds(jnp.asarray(3.0)).fold)
    kinds = [[(p.kind, p.crossing) for p in points] for points in diagram.points]
    assert kinds[0] == [(PointKind.BRANCH_POINT, 2)]
    assert float(diagram.points[0][0].parameter) == pytest.approx(3.0, abs=FOLD_TOL)
    assert len(diagram.branches) == 7  # balance, three collapsed, three starved
    assert diagram.complete
    np.testing.assert_allclose(diagram.folds, [fold] * 3, rtol=0, atol=FOLD_TOL)
    for branch in diagram.branches:
        assert int(branch.status) == BranchStatus.LEFT_RANGE
        assert np.nanmax(branch.residual) < 1e-12
        end = int(branch.points) - 1
        assert float(branch.parameter[end]) == pytest.approx(4.0, abs=1e-12)


def test_biased_diagram_has_the_folds_of_the_closed_form():
    quality = jnp.asarray([0.3, 0.0, -0.1])
    diagram = feedback_diagram(quality, feedback_range=(1.0, 4.0))
    folds = jax.jit(lambda q: collapse_folds(q, candidates=3))(quality).fold
    want = np.sort(np.asarray(folds)[np.isfinite(folds)])
    np.testing.assert_allclose(diagram.folds, want, rtol=0, atol=FOLD_TOL)
    main = diagram.branches[0]
    assert bool(main.stable[: int(main.points)].all())  # the best expert takes over smoothly
    ends = []  # the branches' ends in the range are the equilibria there, all of them
    for branch in diagram.branches:
        for at in (0, int(branch.points) - 1):
            if float(branch.parameter[at]) > 4.0 - 1e-9:
                ends.append(jax.nn.softmax(branch.state[at]))
    want = every_equilibrium(np.asarray(quality), 4.0)
    assert diagram.complete and len(ends) == len(want)
    distance = np.abs(want[:, None] - np.asarray(ends)[None]).max(axis=-1)
    assert distance.min(axis=1).max() < 1e-8


def test_two_expert_branch_lies_on_the_exact_curve():
    # a third expert that nobody takes (load e^-40): the shapes of the tests above, compiled once
    quality = jnp.asarray([0.05, -0.05, -40.0])
    diagram = feedback_diagram(quality, feedback_range=(1.0, 4.0))
    assert len(diagram.branches) == 2
    curve = jax.jit(jax.vmap(lambda k: two_expert_states(0.5 * k, jnp.asarray(0.05))))
    for branch in diagram.branches:
        count = int(branch.points)
        gap = 0.5 * (branch.state[:, 0] - branch.state[:, 1])
        exact = curve(branch.parameter)
        distance = np.nanmin(np.abs(exact.gap - gap[:, None])[:count], axis=1)
        at_fold = np.nanmin(np.abs(exact.rate)[:count], axis=1) < 1e-3
        assert distance[~at_fold].max() < 1e-9


def test_a_branch_that_cannot_start_says_so():
    rise = jnp.asarray([0.0, 0.0, 1.0])
    drift = LogitDrift(jnp.asarray([jnp.nan, 0.0]))
    branch = jax.jit(
        lambda x, p: trace_branch(drift, x, p, rise, parameter_range=(0.0, 4.0), max_points=5)
    )(jnp.zeros(2), jnp.asarray(1.0))
    assert int(branch.status) == BranchStatus.STEP_TOO_SMALL and int(branch.points) == 0


def test_an_empty_range_is_refused():
    with pytest.raises(ValueError, match="feedback_range"):
        feedback_diagram(jnp.zeros(3), feedback_range=(4.0, 1.0))
