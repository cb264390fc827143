"""Distance to collapse: what lies on either side of the fold, its gradient, interval and remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.bifurcation import aux_loss_coef_to_avoid_collapse, collapse_margin
from mfgjax.bifurcation.collapse_fold import collapse_folds
from mfgjax.equilibrium import find_equilibria
from mfgjax.game import Game
from tests.derivatives import assert_derivatives

QUALITY = jnp.asarray([0.3, 0.0, -0.1])
ONE = jnp.asarray(1.0)
measure = jax.jit(collapse_margin)  # shared: each compilation of the fold search takes seconds


def test_a_second_stable_state_exists_exactly_past_the_fold():
    rng = np.random.default_rng(0)
    for scale in (0.02, 0.1, 0.4, 1.5):
        quality = jnp.asarray(rng.normal(size=3) * scale)
        onset = measure(quality, jnp.asarray(0.0), ONE).onset
        before, after = (find_equilibria(Game(quality, -onset * by)) for by in (0.9999, 1.0001))
        assert before.complete and before.stable.sum() == 1
        assert after.stable.sum() >= 2


def test_two_candidates_are_enough():
    quality = jnp.asarray(np.random.default_rng(1).normal(size=(40, 8)) * 0.5)
    two = jax.jit(jax.vmap(collapse_folds))(quality)
    every = jax.jit(jax.vmap(lambda q: collapse_folds(q, candidates=8)))(quality)
    np.testing.assert_allclose(two.onset, every.onset, rtol=1e-12)
    best = every.roots[:, 0]
    assert set(np.unique(best)) <= {0, 2} and (every.roots[:, 1:] == 1).all()


def test_derivatives_of_the_margin():
    at = np.array([*np.asarray(QUALITY), -2.0, 1.3])
    assert_derivatives(lambda v: collapse_margin(v[:3], v[3], v[4]).margin, at)
    level = jax.jit(jax.grad(lambda q: collapse_folds(q).onset))(jnp.zeros(3))
    # a tie: the first expert's, finite
    assert jnp.isfinite(level).all() and abs(float(level.sum())) < 1e-10


def test_alpha_puts_the_router_on_the_fold():
    congestion = jnp.asarray(-5.0)
    cure = jax.jit(aux_loss_coef_to_avoid_collapse)
    coefficient = cure(QUALITY, congestion, ONE)
    balanced = congestion + coefficient * 3
    assert float(measure(QUALITY, balanced, ONE).margin) == pytest.approx(0.0, abs=1e-10)
    assert float(cure(QUALITY, jnp.asarray(4.0), ONE)) == 0.0


def test_a_bad_row_is_nan_and_leaves_the_batch_alone():
    quality = jnp.tile(QUALITY, (4, 1)).at[3, 0].set(jnp.nan)
    rows = jax.jit(jax.vmap(collapse_margin))(quality, jnp.asarray([-2.0, -4.0, jnp.inf, -2.0]))
    one = measure(QUALITY, jnp.asarray(-2.0), ONE).margin
    assert float(rows.margin[0]) == pytest.approx(float(one)) and float(one) > 0
    np.testing.assert_array_equal(jnp.isnan(rows.margin), [False, False, True, True])


def test_float32():
    cast = lambda value: jnp.asarray(value, jnp.float32)  # noqa: E731
    single = measure(QUALITY.astype(jnp.float32), cast(-2.0), cast(1.0)).margin
    double = measure(QUALITY, jnp.asarray(-2.0), ONE).margin
    assert single.dtype == jnp.float32 and float(single) == pytest.approx(float(double), abs=2e-5)
