"""The Voronoi loss: invariances to rounding, and its infima against searches."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from mfgjax.gaussian_moe import Mixture
from mfgjax.gaussian_moe.voronoi import voronoi_loss


def random_mixture(rng, shape, k, d, gate="linear"):
    return Mixture(
        rng.standard_normal((*shape, k, d)),
        rng.standard_normal((*shape, k)),
        np.full(shape, np.nan),
        3 * rng.standard_normal((*shape, k, d)),
        3 * rng.standard_normal((*shape, k)),
        rng.uniform(0.1, 2, (*shape, k)),
        gate,
    )


def moved(mixture, order, weight=0.0, offset=0.0):
    m = mixture
    parts = m.weight + weight, m.offset + offset, m.slope, m.intercept, m.variance
    w, c, a, b, nu = (np.take(p, order, axis=m.offset.ndim - 1) for p in parts)
    return Mixture(w, c, m.temperature, a, b, nu, m.gate)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(1, 3), st.integers(0, 10**6))
def test_labels_and_translations_change_nothing(true, extra, d, seed):
    rng = np.random.default_rng(seed)
    truth = random_mixture(rng, (), true, d)
    fitted = random_mixture(rng, (4,), true + extra, d)
    loss = voronoi_loss(fitted, truth)
    assert loss.shape == (4,) and (loss >= 0).all()
    there = moved(fitted, rng.permutation(true + extra), rng.standard_normal(d), rng.normal())
    known = moved(truth, rng.permutation(true), rng.standard_normal(d), rng.normal())
    np.testing.assert_allclose(voronoi_loss(there, truth), loss, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(voronoi_loss(fitted, known), loss, rtol=1e-12, atol=1e-12)
    itself = moved(truth, rng.permutation(true), rng.standard_normal(d), rng.normal())
    assert voronoi_loss(itself, truth) < 1e-12


def test_infima_are_those_of_a_search():
    rng = np.random.default_rng(3)
    truth, fitted = random_mixture(rng, (), 2, 1), random_mixture(rng, (), 4, 1)
    known = np.exp(truth.offset) / np.exp(truth.offset).sum()
    mass = np.exp(fitted.offset) / np.exp(fitted.offset).sum()
    away = (fitted.slope - truth.slope.T) ** 2 + (fitted.intercept[:, None] - truth.intercept) ** 2
    cell = (away + (fitted.variance[:, None] - truth.variance) ** 2).argmin(1)
    size = np.bincount(cell, minlength=2)[cell]
    r = np.array([{1: 1, 2: 4, 3: 6}.get(m, 7) for m in size])
    q = np.array([{1: 1, 2: 2, 3: 3}.get(m, 3.5) for m in size])

    def gate(t):
        return (mass * np.abs(fitted.weight[:, 0] + t - truth.weight[cell, 0]) ** r).sum()

    def masses(s):
        return sum(abs(mass[cell == j].sum() - s * known[j]) for j in (0, 1))

    grid = np.linspace(-8, 8, 4001)
    start = grid[np.argmin([gate(t) for t in grid])]
    best = minimize_scalar(gate, bounds=(start - 0.01, start + 0.01), method="bounded").fun
    least = min(masses(s) for s in np.linspace(0, 20, 400_001))
    rest = (mass * np.abs(fitted.intercept - truth.intercept[cell]) ** r).sum()
    rest += (mass * np.abs(fitted.slope - truth.slope[cell])[:, 0] ** q).sum()
    rest += (mass * np.abs(fitted.variance - truth.variance[cell]) ** q).sum()
    np.testing.assert_allclose(voronoi_loss(fitted, truth), best + least + rest, rtol=1e-4)


def test_without_the_infimum_a_split_reference_stays():
    truth = Mixture(
        np.array([[25.0], [0.0]]), np.array([-8.0, 0.0]), np.array(np.nan),
        np.array([[-20.0], [20.0]]), np.array([15.0, -5.0]), np.array([0.09, 0.16]),
    )  # fmt: skip
    split = Mixture(
        np.array([[25.0], [0.0], [0.0]]), np.array([-8.0, 0.0, 0.0]), np.array(np.nan),
        np.array([[-20.0], [20.0], [20.0]]), np.array([15.0, -5.0, -5.0]), np.array([0.09, 0.16, 0.16]),
    )  # fmt: skip
    # The same density but for a factor of 2 in the masses of the reference.
    assert voronoi_loss(split, truth, translate=False) > 0.99
    halved = Mixture(
        split.weight, np.array([-8.0, -np.log(2), -np.log(2)]), split.temperature,
        split.slope, split.intercept, split.variance,
    )  # fmt: skip
    assert voronoi_loss(halved, truth) < 1e-12
    shifted = moved(halved, [2, 0, 1], 7.0, 3.0)
    assert voronoi_loss(shifted, truth) < 1e-12 < voronoi_loss(shifted, truth, translate=False)
