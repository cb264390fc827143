"""The pieces under every fit: powers of two, rough logarithms, and the bound the l1 search walks by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.estimate import fit_congestion
from mfgjax.estimate.congestion.residual import evaluate
from mfgjax.estimate.congestion.tilt import make_tilt
from mfgjax.numerics.exponential import exp2, rough_log

ROUGH = 1e-3  # promised by rough_log
FLOAT32 = 5e-6  # rounding of an L1 residual, and its certificate


@pytest.mark.parametrize(("dtype", "lowest"), [(np.float32, -126), (np.float64, -1022)])
def test_powers_of_two_are_right_to_two_units(dtype, lowest):
    power = np.linspace(lowest, 100, 200_001, dtype=dtype)
    exact = np.exp2(power.astype(np.longdouble))
    got = np.asarray(jax.jit(exp2)(np.append(power, dtype(-np.inf))))
    error = got[:-1].astype(np.longdouble) / exact - 1
    assert np.abs(error).max() <= 2 * np.finfo(dtype).eps
    assert got[-1] == np.finfo(dtype).tiny


def test_rough_logarithm():
    value = np.geomspace(1e-37, 1e3, 100_001)
    np.testing.assert_allclose(jax.jit(rough_log)(value), np.log(value), atol=ROUGH)


def test_residual_stays_above_the_bound_around_every_point():
    """Equation (1) of `best_response.py`, written out again, against residuals on a fine grid."""
    rng = np.random.default_rng(0)
    lanes, width = 400, 2.0
    quality = rng.normal(size=(6, lanes)) * rng.uniform(0.1, 3, lanes)
    load, theta = rng.dirichlet(np.ones(6), lanes).T, rng.exponential(4, lanes)

    @jax.jit
    @jax.vmap
    def at(step):
        return evaluate(
            theta + step, make_tilt(jnp.asarray(quality), jnp.asarray(load), jnp.ones(lanes))
        )

    steps = np.linspace(-width, width, 161)
    around = jax.device_get(at(steps))
    assert steps[80] == 0
    here = jax.tree.map(lambda leaf: leaf[80], around)
    largest = np.minimum(here.variance * np.exp(width), 0.25)
    third = 2 * width * (largest + 1.5 * largest**1.5) - here.bend
    curvature = np.minimum(2 * largest, third)
    bound = here.residual + np.outer(steps, here.slope) - np.outer(steps**2, curvature) / 2
    assert (around.residual - bound).min() >= -1e-12


def fit(quality, load):
    return fit_congestion(quality, load, count_minima=False)


def test_moving_lanes_together_changes_nothing():
    """640 lanes are moved when three quarters have finished, 320 are not: equal to the last bit."""
    rng = np.random.default_rng(2)
    quality = rng.normal(size=(640, 3)).astype(np.float32)
    load = rng.dirichlet(np.ones(3), size=640).astype(np.float32)
    whole = fit(quality, load)
    halves = [fit(quality[rows], load[rows]) for rows in (slice(0, 320), slice(320, 640))]
    assert np.ptp(whole.steps) > 10  # some lanes are still at it when others have long finished
    jax.tree.map(lambda a, *b: np.testing.assert_array_equal(a, np.concatenate(b)), whole, *halves)


def test_few_experts_are_global_too():
    """Small games have several minima most often."""
    rng = np.random.default_rng(1)
    quality = (3 * rng.normal(size=(640, 3))).astype(np.float32)
    load = rng.dirichlet(np.ones(3), size=640).astype(np.float32)
    found = fit(quality, load)
    converged = np.asarray(found.converged)
    assert converged.mean() > 0.97  # the rest sit in long valleys and say STEP_LIMIT
    unit = 1 / np.ptp(load, axis=1, keepdims=True)
    best = np.full(640, 2.0)
    for theta in np.concatenate([np.linspace(0, 20, 800), np.geomspace(20, 2000, 300)]):
        logits = (quality - theta * unit * load).astype(float)
        response = np.exp(logits - logits.max(1, keepdims=True))
        response /= response.sum(1, keepdims=True)
        best = np.minimum(best, np.abs(response - load).sum(1))
    assert (np.asarray(found.residual) - best)[converged].max() <= FLOAT32
