"""Welfare: the optimum is one, anarchy is bounded, gains vanish where they should."""

import jax
import numpy as np
import pytest

from mfgjax.equilibrium import Status, check, price_of_anarchy
from mfgjax.game import Game, Linear, Power
from mfgjax.game.welfare import social_cost

anarchy_of = jax.jit(price_of_anarchy, static_argnames="max_steps")
costs_of = jax.jit(jax.vmap(social_cost, in_axes=(None, 0)))


@pytest.mark.parametrize("cost", [Linear(), Power(3.0)], ids=["linear", "power"])
def test_marginal_game_gives_the_least_social_cost(cost):
    rng = np.random.default_rng(0)
    game = Game(rng.normal(0, 3, (3, 5)), 8.0, 0.4, rng.dirichlet(np.ones(3)), cost)
    anarchy = check(anarchy_of(game))
    best = np.asarray(anarchy.optimum.type_load)
    size = np.repeat([1e-4, 1e-2, 1.0], 20)[:, None, None]
    others = best * np.exp(size * rng.normal(size=(60, 3, 5)))
    others /= others.sum(-1, keepdims=True)
    selfish, least, *costs = costs_of(
        game, np.stack([anarchy.equilibrium.type_load, best, *others])
    )
    assert np.asarray(costs).min() > least
    assert float(anarchy.ratio) == pytest.approx(float(selfish / least), rel=1e-9)
    assert anarchy.ratio >= 1 and (anarchy.ratio <= 4 / 3 or not isinstance(cost, Linear))


def test_no_price_of_anarchy_without_both_solutions():
    """A few steps are not enough, nor is float32 at congestion 1e7: no number, and the reason."""
    unfinished, beyond = (
        anarchy_of(Game(np.array(quality, np.float32), congestion), max_steps=4)
        for quality, congestion in (([40, 0, -40], 300.0), ([1, 0, -2], 1e7))
    )
    assert int(unfinished.status) == Status.STEP_LIMIT and np.isnan(unfinished.ratio)
    assert int(beyond.status) == Status.PRECISION and np.isnan(beyond.ratio)
    with pytest.raises(RuntimeError, match="float64"):
        check(beyond)


def test_pigou_approaches_four_thirds():
    """Two roads, one free of congestion at cost 1, the other at cost f: 4/3 as noise vanishes.

    Both roads congest here, so the constant one is imitated by many experts at equal quality.
    """
    quality = np.concatenate([np.zeros(1), np.full(31, -1.0)])
    assert 1.25 < float(check(anarchy_of(Game(quality, 1.0, 1e-3))).ratio) <= 4 / 3
