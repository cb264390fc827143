"""Negative congestion: every equilibrium is found, against the mean-field Potts model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import fsolve

from mfgjax.equilibrium import Status, find_equilibria, solve_equilibrium
from mfgjax.game import Game, Power

FOLDS = {2: 2.0, 3: 2.7456, 8: 4.2498}  # -gamma/lambda where collapsed loads appear, to 5e-5


@pytest.mark.parametrize("experts", FOLDS)
def test_equal_experts_follow_the_potts_model(experts):
    fold = FOLDS[experts]
    before = find_equilibria(Game(jnp.zeros(experts), -fold + 1e-3), high=1)
    assert before.complete and len(before.load) == 1 and before.stable.all()
    after = find_equilibria(Game(jnp.zeros(experts), -fold - 1e-2), high=1)
    # Each expert can hold the collapsed load; with two experts the branches meet at the fold.
    collapsed, uniform = (2, 0) if experts == 2 else (experts, 1)
    assert after.complete and after.stable.sum() == collapsed + uniform
    beyond = find_equilibria(Game(jnp.zeros(experts), -1.05 * experts), high=1)
    uniform = np.abs(beyond.load - 1 / experts).max(-1) < 1e-9
    assert beyond.stable.sum() == experts and not beyond.stable[uniform].any()
    assert max(after.residual.max(), beyond.residual.max()) < 1e-13


def test_no_equilibrium_is_missed_by_a_random_search():
    rng = np.random.default_rng(0)
    quality, ratio = rng.normal(0, 0.3, 4), 5.0
    found = find_equilibria(Game(jnp.asarray(0.5 * quality), -0.5 * ratio, 0.5))
    assert found.complete

    def away(logits):
        load = np.exp(logits - logits.max())
        load /= load.sum()
        target = quality + ratio * load
        return logits - (target - target.mean())

    seen = 0
    for _ in range(300):
        start = rng.dirichlet(np.full(4, 0.3)) + 1e-12
        root, _, flag, _ = fsolve(away, np.log(start) - np.log(start).mean(), full_output=True)
        if flag != 1 or np.abs(away(root)).max() > 1e-9:
            continue
        load = np.exp(root - root.max())
        load /= load.sum()
        assert np.abs(found.load - load).sum(-1).min() < 1e-6
        seen += 1
    assert seen > 100


def test_one_equilibrium_is_never_called_the_equilibrium():
    solve = jax.jit(solve_equilibrium)
    many = solve(Game(jnp.array([0.1, 0.0, 0.0]), -6.0))
    assert int(many.status) == Status.NOT_UNIQUE and np.isinf(many.error_bound)
    assert float(many.residual) < 1e-10
    one = solve(Game(jnp.array([0.1, 0.0, 0.0]), -1.5))
    assert int(one.status) == Status.CONVERGED
    only = find_equilibria(Game(jnp.array([0.1, 0.0, 0.0]), -1.5))
    assert len(only.load) == 1
    assert np.abs(np.asarray(one.load) - only.load[0]).sum() <= float(one.error_bound)


def test_other_games_fall_back_to_a_multistart_that_proves_nothing():
    game = Game(jnp.zeros(2), -6.0, cost=Power(1.0))
    found = find_equilibria(game, starts=20)
    exact = find_equilibria(Game(jnp.zeros(2), -6.0))
    assert not found.complete and found.stable.all()
    np.testing.assert_allclose(
        np.sort(found.load, 0), np.sort(exact.load[exact.stable], 0), atol=1e-5
    )
