"""`solve_equilibrium`: nothing unsolved over the whole range, evidence recomputed independently."""

import jax
import numpy as np
import pytest

from mfgjax.equilibrium import check, solve_equilibrium
from mfgjax.game import Game

solve = jax.jit(jax.vmap(solve_equilibrium))
TARGET = {np.float64: 1e-12, np.float32: 1e-5}  # L1 residual, fraction of tokens


def draw(rng, batch, types, experts, dtype=np.float64, cost=None, spread=50.0, top=5.0):
    """Games over the whole range promised: |q| up to `spread`, gamma in [1e-3, 10^top]."""
    shape = (batch, experts) if types is None else (batch, types, experts)
    weight = None if types is None else rng.dirichlet(np.full(types, 0.5), batch).astype(dtype)
    quality = rng.uniform(-spread, spread, shape).astype(dtype)
    return Game(quality, (10 ** rng.uniform(-3, top, batch)).astype(dtype), 1.0, weight, cost)


def independent_residual(game, solution):
    """L1 distance of the loads from their best response, by numpy alone; linear cost."""
    load = np.asarray(solution.load, np.float64)
    quality = np.asarray(game.quality, np.float64)
    price = np.asarray(game.congestion, np.float64)[:, None] * load
    own = load if game.weight is None else np.asarray(solution.type_load, np.float64)
    logits = quality - (price if game.weight is None else price[:, None, :])
    answer = np.exp(logits - logits.max(-1, keepdims=True))
    away = np.abs(answer / answer.sum(-1, keepdims=True) - own).sum(-1)
    return away if game.weight is None else (np.asarray(game.weight) * away).sum(-1)


@pytest.mark.parametrize("types", [None, 2])
def test_nothing_is_unsolved_over_the_whole_range(types):
    game = draw(np.random.default_rng(0), 200, types, 64)
    solution = check(solve(game))
    assert independent_residual(game, solution).max() <= TARGET[np.float64]
    assert np.abs(solution.load.sum(-1) - 1).max() <= 1e-12
