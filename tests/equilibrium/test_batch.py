"""Games solved in blocks: what each gives by itself, in its place, with its derivative."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.equilibrium import Status, solve_equilibria, solve_equilibrium
from mfgjax.equilibrium.batch import solve_rows
from mfgjax.game import Game
from mfgjax.numerics.filled import filled_up
from tests.equilibrium.games import draw


@jax.jit
def apart(games):
    """One after the other: no game shares a step with another."""
    return jax.lax.map(lambda game: solve_equilibria(game, block=1), games)


def test_blocks_give_what_each_game_gives():
    """Seven games, over and over, in blocks of a hundred, the last one filled up; one of them bad."""
    which = np.arange(360) % 7
    games = jax.tree.map(lambda leaf: leaf[which], draw(0, 7, 2, 6, top=2.0))
    bad = np.array(games.quality)
    bad[which == 4, 0, 1] = np.nan
    games = eqx.tree_at(lambda game: game.quality, games, jnp.asarray(bad))
    found = solve_equilibria(games, block=100)
    one = jax.tree.map(lambda leaf: leaf[:, None], games)
    for got, want in zip(*map(jax.tree.leaves, (found, apart(one))), strict=True):
        np.testing.assert_allclose(got, np.asarray(want)[:, 0], rtol=0, atol=1e-14)
    want = [*[Status.CONVERGED] * 4, Status.BAD_INPUT, 0, 0]
    np.testing.assert_array_equal(found.status, np.array(want)[which])


def test_batch_axes_and_gradients_keep_their_places():
    quality = np.random.default_rng(1).normal(size=(2, 3, 4))
    congestion = np.array([[1.0, 5.0, 9.0], [2.0, 6.0, 40.0]])

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def heaviest(q):
        load = solve_equilibria(Game(q, congestion), block=4).load
        return load.max(-1).sum(), load

    (_, load), gradient = heaviest(quality)
    weight = np.exp(quality - congestion[..., None] * load)
    np.testing.assert_allclose(weight / weight.sum(-1, keepdims=True), load, atol=1e-10)
    step = np.zeros_like(quality)
    step[1, 2] = [1e-5, 0, 0, 0]
    ends = [float(heaviest(quality + s * step)[0][0]) for s in (1, -1)]
    assert float(gradient[1, 2, 0]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


def test_one_game_is_refused():
    with pytest.raises(ValueError, match="use solve_equilibrium"):
        solve_equilibria(Game(jnp.zeros(3), 1.0))


def test_rows_of_any_number_get_their_answers_from_one_program():
    rng = np.random.default_rng(3)
    quality, congestion = rng.normal(size=(5, 6)), rng.uniform(0, 20, 5)
    five, two = solve_rows(quality, congestion), solve_rows(quality[:2], congestion[:2])
    np.testing.assert_array_equal(two.load, five.load[:2])
    alone = solve_equilibrium(Game(jnp.asarray(quality[1]), jnp.asarray(congestion[1])))
    np.testing.assert_allclose(two.load[1], alone.load, atol=1e-12)
    seen = []
    for count in (1, 4, 5):
        doubled = filled_up(lambda x: seen.append(len(x)) or 2 * x, 4, np.arange(count))
        np.testing.assert_array_equal(doubled, 2 * np.arange(count))
    assert seen == [4, 4, 8]
