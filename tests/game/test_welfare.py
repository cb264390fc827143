"""Welfare: the optimum is one, anarchy is bounded, gains vanish where they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.equilibrium import check, solve_equilibrium
from mfgjax.game import (
    Game,
    Linear,
    Power,
    exploitability,
    marginal_game,
    price_of_anarchy,
    social_cost,
    swap_gap,
)


@pytest.mark.parametrize("cost", [Linear(), Power(3.0)], ids=["linear", "power"])
def test_marginal_game_gives_the_least_social_cost(cost):
    rng = np.random.default_rng(0)
    game = Game(rng.normal(0, 3, (3, 5)), 8.0, 0.4, rng.dirichlet(np.ones(3)), cost)
    solve = jax.jit(solve_equilibrium)
    best = check(solve(marginal_game(game))).type_load
    least = float(social_cost(game, best))
    for size in (1e-4, 1e-2, 1.0):
        other = jax.nn.softmax(jnp.log(best)[None] + size * rng.normal(size=(20, 3, 5)))
        assert (jax.vmap(lambda load: social_cost(game, load))(other) > least).all()
    ratio = float(price_of_anarchy(game, check(solve(game)).type_load, best))
    assert ratio >= 1 and (ratio <= 4 / 3 or not isinstance(cost, Linear))


def test_pigou_approaches_four_thirds():
    """Two roads, one free of congestion at cost 1, the other at cost f: 4/3 as noise vanishes.

    Both roads congest here, so the constant one is imitated by many experts at equal quality.
    """
    many = 400
    quality = jnp.concatenate([jnp.zeros(1), jnp.full(many, -1.0)])
    game = Game(quality, 1.0, 1e-3)
    equilibrium = check(solve_equilibrium(game)).load
    optimum = check(solve_equilibrium(marginal_game(game))).load
    assert 1.25 < float(price_of_anarchy(game, equilibrium, optimum)) <= 4 / 3


def test_single_deviations():
    game = Game(jnp.array([1.0, 0.0]), 4.0, 1e-4)
    nash = jnp.array([0.625, 0.375])  # equal utility 1 - 4 * 0.625 = -1.5 = -4 * 0.375
    assert abs(float(exploitability(game, nash))) < 1e-15
    assert abs(float(swap_gap(game, nash))) < 1e-15
    assert float(swap_gap(game, nash, tokens=8)) == pytest.approx(-4 / 8)
    crowded = jnp.array([1.0, 0.0])
    assert float(exploitability(game, crowded)) == pytest.approx(3.0)
    assert float(swap_gap(game, crowded)) == pytest.approx(3.0)
    assert float(swap_gap(game, crowded, tokens=4)) == pytest.approx(2.0)
    typed = Game(jnp.zeros((2, 2)), 1.0, 1.0, jnp.array([0.5, 0.5]))
    apart = jnp.eye(2)
    assert abs(float(swap_gap(typed, apart))) < 1e-15
    assert abs(float(exploitability(typed, apart))) < 1e-15
