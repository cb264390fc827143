"""The parts of the theory checks that no library function stands behind."""

import numpy as np
import pytest

from benchmarks.studies.theory.contraction import largest_rate
from benchmarks.studies.theory.games import response
from benchmarks.studies.theory.identification import GRID, KNOWN, minima, residuals


def test_published_counterexample_has_two_minima():
    values = residuals(*KNOWN)
    found = minima(values)
    assert values[found] == pytest.approx([0.562, 0.800], abs=1e-3)
    assert GRID[found] == pytest.approx([9.9, 175], rel=0.01)


def test_no_load_has_a_larger_rate():
    rng = np.random.default_rng(0)
    for congestion in (1.0, 4.0, 12.0):
        quality = rng.normal(size=5)
        loads = np.concatenate([rng.dirichlet(np.full(5, a), 20_000) for a in (0.1, 0.5, 2)])
        loads[::2, quality.argmax()] = 0
        loads /= loads.sum(-1, keepdims=True)
        pi = response(quality[None], np.full(len(loads), congestion), loads)
        seen = (2 * congestion * pi * (1 - pi)).max()
        exact = largest_rate(quality, congestion)
        assert 0.97 * exact <= seen <= exact * (1 + 1e-9)
