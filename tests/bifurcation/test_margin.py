"""Distance to collapse: what lies on either side of the fold, its gradient, interval and remedy."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.bifurcation import (
    aux_loss_coef_to_avoid_collapse,
    collapse_margin,
    symmetric_thresholds,
)
from mfgjax.bifurcation.collapse_fold import collapse_folds
from mfgjax.equilibrium import find_equilibria
from mfgjax.game import Game
from tests.derivatives import assert_derivatives

QUALITY = np.array([0.3, 0.0, -0.1])
FOUR = np.tile(QUALITY, (4, 1))
# Shared, and always of four rows: each compilation of the fold search takes seconds.
rows = jax.jit(jax.vmap(collapse_margin))


def test_a_second_stable_state_exists_exactly_past_the_fold():
    rng = np.random.default_rng(0)
    scales = (0.02, 0.1, 0.4, 1.5)
    qualities = np.array([rng.normal(size=3) * scale for scale in scales])
    onsets = np.asarray(rows(qualities, np.zeros(4), np.ones(4)).onset)
    for quality, onset in zip(qualities, onsets, strict=True):
        before, after = (find_equilibria(Game(quality, -onset * by)) for by in (0.9999, 1.0001))
        assert before.complete and before.stable.sum() == 1
        assert after.stable.sum() >= 2


def test_two_candidates_are_enough():
    """Of 40 games; and equal experts, the last row, have the thresholds of the symmetric table."""
    quality = np.random.default_rng(1).normal(size=(41, 8)) * 0.5
    quality[40] = 0
    few = inspect.signature(collapse_folds).parameters["candidates"].default
    every = jax.jit(jax.vmap(lambda q: collapse_folds(q, candidates=8)))(quality)
    assert few == 2
    np.testing.assert_array_equal(every.fold[:, :few].min(1), every.onset)
    roots = np.asarray(every.roots)[:40]
    assert set(np.unique(roots[:, 0])) <= {0, 2} and (roots[:, 1:] == 1).all()
    table = jax.jit(symmetric_thresholds)(8.0)
    np.testing.assert_allclose(every.onset[40], table.fold, rtol=0, atol=1e-9)
    np.testing.assert_allclose(every.spinodal[40], table.spinodal, rtol=0, atol=1e-9)


def test_derivatives_of_the_margin():
    at = np.array([*QUALITY, -2.0, 1.3])
    assert_derivatives(lambda v: collapse_margin(v[:3], v[3], v[4]).margin, at)
    level = jax.jit(jax.grad(lambda q: collapse_folds(q).onset))(np.zeros(3))
    # a tie: the first expert's, finite
    assert jnp.isfinite(level).all() and abs(float(level.sum())) < 1e-10


def test_alpha_puts_the_router_on_the_fold():
    cure = jax.jit(aux_loss_coef_to_avoid_collapse)
    balanced = -5.0 + float(cure(QUALITY, -5.0, 1.0)) * 3
    margin = rows(FOUR, np.full(4, balanced), np.ones(4)).margin
    np.testing.assert_allclose(margin, 0, atol=1e-10)
    assert float(cure(QUALITY, 4.0, 1.0)) == 0.0


def test_a_bad_row_is_nan_and_leaves_the_batch_alone():
    quality = FOUR.copy()
    quality[3, 0] = np.nan
    margin = rows(quality, np.array([-2.0, -4.0, np.inf, -2.0]), np.ones(4)).margin
    one = rows(FOUR, np.full(4, -2.0), np.ones(4)).margin[0]
    assert float(margin[0]) == pytest.approx(float(one)) and float(one) > 0
    np.testing.assert_array_equal(np.isnan(margin), [False, False, True, True])


def test_float32():
    single, double = (
        rows(FOUR.astype(dtype), np.full(4, -2, dtype), np.ones(4, dtype)).margin[0]
        for dtype in (np.float32, np.float64)
    )
    assert single.dtype == jnp.float32 and float(single) == pytest.approx(float(double), abs=2e-5)
