"""Parts of the static comparison: split, distances, search, transport."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy

from mfgjax.comparison.distance import js_divergence, kl_divergence, l1_distance
from mfgjax.comparison.models import (
    fit_inverse_temperature,
    search_nonnegative,
    sinkhorn_choices,
)
from mfgjax.comparison.split import three_way_split


def test_split_deals_whole_texts_once_and_evenly():
    tokens = np.random.default_rng(0).integers(0, 60, 50)
    split = three_way_split(tokens, seed=3)
    parts = [split.fit, split.cluster, split.held_out]
    dealt = np.concatenate(parts)
    assert sorted(dealt) == np.flatnonzero(tokens).tolist()
    sums = [tokens[part].sum() for part in parts]
    assert max(sums) - min(sums) <= tokens.max()
    again = three_way_split(tokens, seed=3)
    assert (again.held_out == split.held_out).all()
    assert not np.array_equal(three_way_split(tokens, seed=4).held_out, split.held_out)
    with pytest.raises(ValueError, match="2 texts hold tokens"):
        three_way_split(np.array([4, 0, 3]))


def test_distances_are_those_of_scipy():
    left, right = np.random.default_rng(1).dirichlet(np.ones(5), (2, 3))
    np.testing.assert_allclose(kl_divergence(left, right), entropy(left, right, axis=-1))
    np.testing.assert_allclose(js_divergence(left, right), jensenshannon(left, right, axis=-1) ** 2)
    np.testing.assert_allclose(l1_distance(left, right), np.linalg.norm(left - right, 1, axis=-1))
    one = np.eye(2)
    assert kl_divergence(one[0], one[1]) == np.inf
    assert js_divergence(one[0], one[1]) == pytest.approx(np.log(2))
    assert l1_distance(one[0], one[1]) == 2


def test_search_finds_the_lower_of_two_valleys_and_the_boundary():
    quality, load = np.array([1.7, -3.2, 1.2]), np.array([0.40, 0.29, 0.31])

    def residual(congestion):
        return l1_distance(load, softmax(quality - congestion[:, None] * load, axis=-1))

    found = search_nonnegative(residual)
    assert found == pytest.approx(9.9, abs=0.2)  # the other, near 175, has .800
    assert residual(np.array([found]))[0] == pytest.approx(0.562, abs=1e-3)
    assert search_nonnegative(lambda x: x) == 0
    assert search_nonnegative(lambda x: np.abs(x - 0.123456789)) == pytest.approx(
        0.123456789, rel=1e-6
    )


def test_temperatures_of_many_rows_are_those_of_a_fine_grid():
    rng = np.random.default_rng(3)
    quality, load = rng.standard_normal((70, 5)), rng.dirichlet(np.full(5, 20.0), 70)
    load[0], load[1] = 0.2, softmax(3 * quality[1])  # no temperature; a known one

    def residual(row, beta):
        return l1_distance(load[row], softmax(beta[:, None] * quality[row], axis=-1))

    found = fit_inverse_temperature(quality, load)
    assert found[0] == 0 and found[1] == pytest.approx(3, rel=1e-6)
    grid = np.concatenate([[0.0], np.geomspace(1e-3, 100, 4000)])
    for row, beta in enumerate(found):
        assert residual(row, np.array([beta]))[0] <= residual(row, grid).min() + 1e-9


def test_sinkhorn_balances_what_top_k_does_not():
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((3000, 8)) + np.linspace(0, 2, 8)
    dispatch = sinkhorn_choices(logits, 2)
    assert (dispatch.sum(1) == 2).all()
    load = dispatch.sum(0) / dispatch.sum()
    raw = np.bincount(np.argsort(-logits)[:, :2].ravel(), minlength=8) / 6000
    assert np.abs(load - 1 / 8).sum() < 0.05 < 0.3 < np.abs(raw - 1 / 8).sum()
