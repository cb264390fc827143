"""M equal experts: the table of thresholds, from independent directions (general folds: `test_margin.py`)."""

import jax
import jax.numpy as jnp
import numpy as np
from mpmath import mp
from scipy.optimize import minimize_scalar

from mfgjax.bifurcation import symmetric_thresholds
from mfgjax.bifurcation.mean_field import growth_rates
from mfgjax.bifurcation.symmetric import (
    branch_feedback,
    branch_load,
    collapse_potential,
    fold_log_ratio,
)

SIZES = (2, 3, 8, 64)
TABLE = 1e-6  # accuracy asked of the table


def brute_fold(size):
    """Smallest feedback of the one-leader states, searched over the leader's load."""

    def feedback(load):
        rest = (1 - load) / (size - 1)
        return np.log(load / rest) / (load - rest)

    grid = np.linspace(1 / size + 1e-3, 1 - 1e-6, 4001)
    at = grid[np.argmin(feedback(grid))]
    step = grid[1] - grid[0]
    low, high = max(at - step, 1 / size + 1e-4), min(at + step, 1 - 1e-9)
    return minimize_scalar(feedback, bounds=(low, high), method="bounded").fun


def test_table_of_thresholds():
    table = jax.jit(jax.vmap(symmetric_thresholds))(jnp.asarray(SIZES, float))
    brute = [2.0, *(brute_fold(size) for size in SIZES[1:])]  # two experts: at the pitchfork
    np.testing.assert_allclose(table.fold, brute, rtol=0, atol=TABLE)
    np.testing.assert_allclose(table.fold, [2, 2.7456, 4.2498, 6.9246], atol=5e-5)
    np.testing.assert_allclose(table.maxwell, [2, 2.7726, 4.5405, 8.4199], atol=5e-5)
    np.testing.assert_array_equal(table.spinodal, SIZES)


def test_fold_to_thirty_digits():
    with mp.workdps(30):
        for size in SIZES[1:]:
            guess = float(fold_log_ratio(jnp.asarray(float(size))))
            y = mp.findroot(
                lambda y, m=size: mp.exp(y) - (m - 1) * mp.exp(-y) + m - 2 - m * y, guess
            )
            want = y * (mp.exp(y) + size - 1) / (mp.exp(y) - 1)
            got = symmetric_thresholds(jnp.asarray(float(size))).fold
            assert abs(float(got) - float(want)) < 1e-13 * float(want)


def test_maxwell_point_balances_the_potentials():
    for size in SIZES[1:]:
        table = symmetric_thresholds(jnp.asarray(float(size)))
        y = 2 * jnp.log(size - 1.0)  # log ratio of the load (M - 1) / M
        assert abs(float(branch_load(y, size) - table.maxwell_load)) < 1e-14
        assert abs(float(branch_feedback(y, size) - table.maxwell)) < 1e-12
        assert abs(float(collapse_potential(y, size, table.maxwell))) < 1e-13


def test_stability_changes_at_fold_and_spinodal():
    size = 8
    y = fold_log_ratio(jnp.asarray(float(size)))

    @jax.jit
    def largest(log_ratio):
        lead = branch_load(log_ratio, size)
        load = jnp.full(size, lead * jnp.exp(-log_ratio)).at[0].set(lead)
        return growth_rates(load, branch_feedback(log_ratio, size))[-1]

    assert abs(largest(y)) < 1e-12
    assert largest(1.05 * y) < 0 < largest(0.95 * y)
    even = np.full(size, 1 / size)
    assert abs(float(jax.jit(growth_rates)(even, 8.0)[-1])) < 1e-14
