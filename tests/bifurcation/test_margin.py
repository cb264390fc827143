"""Distance to collapse: what lies on either side of the fold, its gradient, interval and remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.bifurcation import (
    aux_loss_coef_to_avoid_collapse,
    check_margins,
    collapse_folds,
    collapse_margin,
    deflated_equilibria,
    margin_interval,
)

QUALITY = jnp.asarray([0.3, 0.0, -0.1])
ONE = jnp.asarray(1.0)
measure = jax.jit(collapse_margin)  # shared: each compilation of the fold search takes seconds
deflate = jax.jit(deflated_equilibria, static_argnames="slots")


def test_a_second_stable_state_exists_exactly_past_the_fold():
    rng = np.random.default_rng(0)
    for scale in (0.02, 0.1, 0.4, 1.5):
        quality = jnp.asarray(rng.normal(size=3) * scale)
        onset = measure(quality, jnp.asarray(0.0), ONE).onset
        assert int(deflate(quality, onset * (1 - 1e-4), slots=24).stable.sum()) == 1
        assert int(deflate(quality, onset * (1 + 1e-4), slots=24).stable.sum()) >= 2


def test_two_candidates_are_enough():
    quality = jnp.asarray(np.random.default_rng(1).normal(size=(40, 8)) * 0.5)
    two = jax.jit(jax.vmap(collapse_folds))(quality)
    every = jax.jit(jax.vmap(lambda q: collapse_folds(q, candidates=8)))(quality)
    np.testing.assert_allclose(two.onset, every.onset, rtol=1e-12)
    best = every.roots[:, 0]
    assert set(np.unique(best)) <= {0, 2} and (every.roots[:, 1:] == 1).all()


def test_derivatives_of_the_margin():
    values = [np.asarray(QUALITY), np.asarray(-2.0), np.asarray(1.3)]
    slope = jax.jit(jax.grad(lambda *a: collapse_margin(*a).margin, argnums=(0, 1, 2)))
    got = np.concatenate([np.ravel(part) for part in slope(*map(jnp.asarray, values))])
    bend = jax.jit(jax.jacfwd(jax.grad(lambda q: collapse_folds(q).onset)))(QUALITY)

    def central(function, i):
        """Difference quotient in the i-th of the five numbers."""
        ends = []
        for sign in (1, -1):
            flat = np.concatenate([np.ravel(v) for v in values])
            flat[i] += sign * 1e-5
            ends.append(function(jnp.asarray(flat[:3]), jnp.asarray(flat[3]), jnp.asarray(flat[4])))
        return (ends[0] - ends[1]) / 2e-5

    for i in range(5):
        assert float(central(lambda *a: measure(*a).margin, i)) == pytest.approx(got[i], abs=1e-7)
    values[2] = np.asarray(1.0)  # at temperature 1 the margin is the onset plus the congestion
    for i in range(3):
        np.testing.assert_allclose(central(lambda *a: slope(*a)[0], i), bend[i], atol=1e-6)
    level = slope(jnp.zeros(3), jnp.asarray(-2.0), ONE)[0]  # a tie: the first expert's, finite
    assert jnp.isfinite(level).all() and abs(float(level.sum())) < 1e-10


def test_alpha_puts_the_router_on_the_fold():
    congestion = jnp.asarray(-5.0)
    cure = jax.jit(aux_loss_coef_to_avoid_collapse)
    coefficient = cure(QUALITY, congestion, ONE)
    balanced = congestion + coefficient * 3
    assert float(measure(QUALITY, balanced, ONE).margin) == pytest.approx(0.0, abs=1e-10)
    assert float(cure(QUALITY, jnp.asarray(4.0), ONE)) == 0.0


def test_interval_alarm_and_bad_rows():
    rng = np.random.default_rng(2)
    quality = QUALITY[None] + jnp.asarray(rng.normal(size=(201, 3)) * 0.01)
    congestion = jnp.asarray(-3.09 + rng.normal(size=201) * 0.2)
    interval = jax.jit(margin_interval)(quality, congestion)
    rows = jax.jit(jax.vmap(collapse_margin))(quality.at[3, 0].set(jnp.nan), congestion)
    assert float(interval.estimate) == pytest.approx(float(rows.margin[0]))
    want = np.nanquantile(rows.margin[1:], [0.025, 0.975])  # one row of 200 apart
    np.testing.assert_allclose([interval.lower, interval.upper], want, atol=0.02)
    assert 0.2 < float(interval.hysteretic_share) < 0.8
    with pytest.raises(ValueError, match="resample"):
        margin_interval(quality[:1], congestion[:1])
    assert jnp.isnan(rows.margin[3]) and jnp.isfinite(rows.margin[jnp.asarray([2, 4])]).all()
    with pytest.raises(RuntimeError, match=r"1 of 201 router\(s\).*\(3,\)"):
        check_margins(rows)


def test_float32():
    cast = lambda value: jnp.asarray(value, jnp.float32)  # noqa: E731
    single = measure(QUALITY.astype(jnp.float32), cast(-2.0), cast(1.0)).margin
    double = measure(QUALITY, jnp.asarray(-2.0), ONE).margin
    assert single.dtype == jnp.float32 and float(single) == pytest.approx(float(double), abs=2e-5)
