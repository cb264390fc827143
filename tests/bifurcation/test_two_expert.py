"""Two experts: every root against scipy, folds and cusp against closed forms and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from scipy.optimize import brentq

from mfgjax.bifurcation.response import NOISY_TOP1, SOFTMAX
from mfgjax.bifurcation.two_expert import (
    StateStatus,
    control_plane,
    cusp_asymmetry,
    drift,
    fold_asymmetry,
    potential,
    two_expert_states,
)
from tests.derivatives import assert_derivatives

RESPONSES = [SOFTMAX, NOISY_TOP1]
ROOT_TOL = 1e-9  # roots beside a fold have a flat residual: 1e-16 / slope
solve = jax.jit(two_expert_states, static_argnums=2)
drift_of = jax.jit(drift, static_argnums=3)
fold_of = jax.jit(fold_asymmetry, static_argnums=1)


def scipy_roots(strength, asymmetry, response):
    """Sign changes on a fine grid, refined: knows nothing of turning gaps."""
    field = lambda z: float(drift_of(z, strength, asymmetry, response))  # noqa: E731
    reach = abs(asymmetry) + strength + 1.0
    grid = np.linspace(-reach, reach, 4001) + 1e-7
    value = np.asarray(drift_of(grid, strength, asymmetry, response))
    changes = np.flatnonzero(np.sign(value[:-1]) != np.sign(value[1:]))
    return [brentq(field, grid[i], grid[i + 1], xtol=1e-14) for i in changes]


@pytest.mark.parametrize("response", RESPONSES, ids=lambda r: r.name)
@given(strength=st.floats(0.0, 6.0), asymmetry=st.floats(-3.0, 3.0))
@settings(max_examples=25, deadline=None)
def test_every_root_is_found(response, strength, asymmetry):
    wedge = float(fold_of(strength, response))
    if abs(abs(asymmetry) - wedge) < 1e-4 or abs(asymmetry) < 1e-4:
        return  # on the fold curve the grid of the reference misses double roots
    states = solve(strength, asymmetry, response)
    got = np.asarray(states.gap)[np.asarray(states.found)]
    want = scipy_roots(strength, asymmetry, response)
    np.testing.assert_allclose(got, want, rtol=0, atol=ROOT_TOL)
    assert set(states.status.tolist()) <= {StateStatus.FOUND, StateStatus.ABSENT}
    assert states.stable.sum() == (2 if len(want) == 3 else 1)


@pytest.mark.parametrize("response", RESPONSES, ids=lambda r: r.name)
def test_folds_are_double_roots_and_meet_in_the_cusp(response):
    @jax.jit
    def told(gap, near):
        strength = 1.0 / response.slope(gap)
        asymmetry = gap - strength * response.value(gap)
        at = gap, strength, asymmetry
        slope = jax.vmap(jax.grad(drift), (0, 0, 0, None))(*at, response)
        off = fold_asymmetry(strength, response) / -asymmetry - 1
        ratio = fold_asymmetry(near, response) / cusp_asymmetry(near, response)
        branch = jax.vmap(lambda s: two_expert_states(s, jnp.zeros_like(s), response).gap[2])(near)
        pitchfork = jnp.sqrt((near - 1.0) / (near * response.cubic))
        return drift(*at, response), slope, off, ratio, branch / pitchfork

    near = np.array([1.0 + 1e-6, 1.0 + 1e-4])
    value, slope, off, *ratios = told(np.linspace(0.05, 3.0, 30), near)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    np.testing.assert_allclose(slope, 0, atol=1e-12)
    np.testing.assert_allclose(off, 0, atol=1e-9)
    np.testing.assert_allclose(ratios, 1, rtol=2e-4)


def test_softmax_folds_against_fifty_digits():
    with mp.workdps(50):
        for strength in (1.001, 1.5, 4.0):
            gap = mp.acosh(mp.sqrt(mp.mpf(strength)))
            want = mp.sinh(2 * gap) / 2 - gap
            got = float(fold_of(strength, SOFTMAX))
            assert got == pytest.approx(float(want), rel=1e-9)  # 1e-16 / (strength - 1)^(3/2)
    assert float(fold_of(1.5, SOFTMAX)) == pytest.approx(0.2075, abs=5e-5)


def test_potential_is_minus_the_integral_of_the_drift():
    for response in RESPONSES:
        slope = jax.jit(jax.grad(potential), static_argnums=3)(0.7, 1.8, 0.1, response)
        assert float(slope) == pytest.approx(-float(drift_of(0.7, 1.8, 0.1, response)), abs=1e-12)


def test_derivative_matches_finite_differences():
    assert_derivatives(lambda at: two_expert_states(at[0], at[1]).gap, np.array([2.0, 0.1]))


def test_bad_instances_leave_the_batch_alone_and_float32_agrees():
    strength = np.array([2.0, -1.0, np.nan, 2.0], np.float32)
    asymmetry = np.array([0.1, 0.1, 0.0, np.inf], np.float32)
    states = jax.jit(jax.vmap(two_expert_states))(strength, asymmetry)
    assert states.gap.dtype == jnp.float32
    assert (states.status[1:] == StateStatus.BAD_INPUT).all()
    double = solve(2.0, 0.1, SOFTMAX)
    np.testing.assert_allclose(states.gap[0], double.gap, rtol=2e-6)


def test_control_plane_counts_three_inside_the_wedge():
    strength, asymmetry = np.linspace(0.1, 3.0, 40), np.linspace(-1.5, 1.5, 61)
    plane = jax.jit(control_plane)(strength, asymmetry)
    wedge = np.asarray(fold_of(strength, SOFTMAX))[:, None]
    want = np.where(np.abs(asymmetry)[None, :] < wedge, 3, 1)
    assert int(plane.unsolved) == 0
    np.testing.assert_array_equal(plane.count, want)
