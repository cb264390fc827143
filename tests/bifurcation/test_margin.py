"""Distance to collapse: what lies on either side of the fold, its gradient, interval and remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mfgjax.bifurcation import (
    aux_loss_coef_to_avoid_collapse,
    check_margins,
    collapse_folds,
    collapse_margin,
    deflated_equilibria,
    margin_interval,
)

QUALITY = jnp.asarray([0.3, 0.0, -0.1])
margin_of = jax.jit(lambda q, c, t: collapse_margin(q, c, t).margin)
margins = jax.jit(jax.vmap(collapse_margin, (0, 0, None)))


def test_a_second_stable_state_exists_exactly_past_the_fold():
    rng = np.random.default_rng(0)
    quality = jnp.asarray(
        rng.normal(size=(6, 3)) * np.array([0.02, 0.1, 0.2, 0.4, 0.8, 1.5])[:, None]
    )
    onset = margins(quality, jnp.zeros(6), 1.0).onset
    stable = jax.jit(jax.vmap(lambda q, k: deflated_equilibria(q, k, slots=24).stable.sum()))
    np.testing.assert_array_equal(stable(quality, onset * (1 - 1e-4)), 1)
    assert (stable(quality, onset * (1 + 1e-4)) >= 2).all()


def test_two_candidates_are_enough():
    quality = jnp.asarray(np.random.default_rng(1).normal(size=(40, 8)) * 0.5)
    two = jax.jit(jax.vmap(collapse_folds))(quality)
    every = jax.jit(jax.vmap(lambda q: collapse_folds(q, candidates=8)))(quality)
    np.testing.assert_allclose(two.onset, every.onset, rtol=1e-12)
    best = every.roots[:, 0]
    assert set(np.unique(best)) <= {0, 2} and (every.roots[:, 1:] == 1).all()


def test_derivatives_of_the_margin():
    arguments = (QUALITY, jnp.asarray(-2.0), jnp.asarray(1.3))
    check_grads(margin_of, arguments, order=1, modes=["rev"], atol=1e-6, rtol=1e-6)
    slope = jax.jit(jax.grad(lambda q: collapse_folds(q).onset))
    bend = jax.jit(jax.jacfwd(jax.grad(lambda q: collapse_folds(q).onset)))(QUALITY)
    for i in range(3):
        step = jnp.zeros(3).at[i].set(1e-5)
        want = (slope(QUALITY + step) - slope(QUALITY - step)) / 2e-5
        np.testing.assert_allclose(bend[i], want, atol=1e-6)
    level = slope(jnp.zeros(3))  # a tie: the first expert's gradient, finite
    assert jnp.isfinite(level).all() and abs(float(level.sum())) < 1e-10


def test_alpha_puts_the_router_on_the_fold():
    congestion, one = jnp.asarray(-5.0), jnp.asarray(1.0)
    cure = jax.jit(aux_loss_coef_to_avoid_collapse)
    coefficient = cure(QUALITY, congestion, one)
    balanced = congestion + coefficient * 3
    assert float(margin_of(QUALITY, balanced, one)) == pytest.approx(0.0, abs=1e-10)
    assert float(cure(QUALITY, jnp.asarray(4.0), one)) == 0.0


def test_interval_alarm_and_bad_rows():
    rng = np.random.default_rng(2)
    quality = QUALITY[None] + jnp.asarray(rng.normal(size=(201, 3)) * 0.01)
    congestion = jnp.asarray(-3.09 + rng.normal(size=201) * 0.2)
    interval = jax.jit(margin_interval)(quality, congestion)
    rows = margins(quality, congestion, 1.0)
    assert float(interval.estimate) == pytest.approx(float(rows.margin[0]))
    want = np.quantile(rows.margin[1:], [0.025, 0.975])
    np.testing.assert_allclose([interval.lower, interval.upper], want, rtol=1e-10)
    assert 0.2 < float(interval.hysteretic_share) < 0.8
    with pytest.raises(ValueError, match="resample"):
        margin_interval(quality[:1], congestion[:1])
    bad = margins(quality.at[3, 0].set(jnp.nan), congestion, 1.0)
    assert jnp.isfinite(bad.margin[:3]).all() and jnp.isnan(bad.margin[3])
    with pytest.raises(RuntimeError, match=r"1 of 201 router\(s\).*\(3,\)"):
        check_margins(bad)


def test_float32():
    cast = lambda value: jnp.asarray(value, jnp.float32)  # noqa: E731
    single = margin_of(QUALITY.astype(jnp.float32), cast(-2.0), cast(1.0))
    double = margin_of(QUALITY, jnp.asarray(-2.0), jnp.asarray(1.0))
    assert single.dtype == jnp.float32 and float(single) == pytest.approx(float(double), abs=2e-5)
