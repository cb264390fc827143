"""A load to start from: the same equilibrium in fewer steps, and never a worse answer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.equilibrium import Status, check, solve_equilibria, solve_equilibrium
from mfgjax.game import Game
from tests.equilibrium.games import draw

GAMES = 40


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_any_start_leads_to_the_same_equilibrium(solve_batch, dtype):
    """Near, far and absurd starts of 40 games of two types, q/lambda up to 30."""
    one = draw(11, GAMES, 2, 6, dtype, spread=30.0, top=2.0)
    congestion = np.tile(one.congestion, 9)
    congestion[:GAMES] *= dtype(1.01)  # the first row starts from the load before that change
    games = Game(jnp.tile(one.quality, (9, 1, 1)), congestion, 1.0, jnp.tile(one.weight, (9, 1)))
    cold = check(solve_batch(games))
    own = np.asarray(cold.load[-GAMES:])
    starts = [
        own,
        own,
        np.roll(own, 1, axis=0),
        np.full_like(own, 1 / 6),
        np.eye(6, dtype=dtype)[np.arange(GAMES) % 6],
        np.where(np.arange(6) < 3, own, 0),
        -3 * own,
        np.full_like(own, np.inf),
        np.full_like(own, np.nan),
    ]
    warm = check(solve_batch(games, start=np.concatenate(starts)))
    apart = np.abs(np.asarray(warm.load, np.float64) - np.asarray(cold.load, np.float64)).sum(-1)
    assert (apart <= np.asarray(warm.error_bound + cold.error_bound)).all()
    steps = [np.asarray(found.steps).reshape(9, GAMES) for found in (cold, warm)]
    more = steps[1] - steps[0]
    assert more.max() == 1 and more[1].max() <= -1
    assert steps[1][0].sum() < 0.7 * steps[0][0].sum()
    same = np.asarray(warm.load == cold.load).all(-1).reshape(9, GAMES)
    assert (more[-2:] == 1).all() and same[-2:].all()  # what is refused leaves no trace


def test_a_start_leaves_the_limit_and_the_derivatives_alone():
    game = Game(jnp.array([[12.0, 8.0, -20.0], [0.0, 12.0, 9.0]]), 8.0, 1.0, jnp.array([0.3, 0.7]))
    cold = check(solve_equilibrium(game))

    @jax.jit
    @partial(jax.grad, argnums=(0, 1), has_aux=True)
    def gradient(quality, start):
        at = Game(quality, game.congestion, 1.0, game.weight)
        found = solve_equilibrium(at, start=start, max_steps=int(cold.steps))
        return found.load[0], found

    near, taken = gradient(game.quality, cold.load)
    far, refused = gradient(game.quality, jnp.full(3, jnp.nan))
    assert int(taken.steps) < int(cold.steps) == int(refused.steps) - 1
    assert int(check(refused).status) == Status.CONVERGED
    np.testing.assert_array_equal(refused.load, cold.load)
    assert not near[1].any() and not far[1].any()
    np.testing.assert_allclose(near[0], far[0], rtol=0, atol=1e-12)
    assert float(jnp.abs(near[0]).max()) > 1e-3


def test_blocks_take_a_start_each_and_bad_games_stay_bad():
    """Negative congestion keeps its answer, whichever equilibrium the start is."""
    games = draw(13, 7, 2, 4, spread=10.0, top=2.0)
    congestion = games.congestion.at[2].set(-30.0)
    games = Game(games.quality, congestion, 1.0, games.weight)
    bad = games.quality.at[4, 0, 1].set(jnp.nan)
    games = jax.tree.unflatten(jax.tree.structure(games), [bad, *jax.tree.leaves(games)[1:]])
    cold = solve_equilibria(games, block=3)
    start = np.asarray(cold.load).copy()
    start[2], start[4] = [1, 0, 0, 0], 0.25
    warm = solve_equilibria(games, block=3, start=start)
    assert np.asarray(cold.status)[[2, 4]].tolist() == [Status.NOT_UNIQUE, Status.BAD_INPUT]
    np.testing.assert_array_equal(warm.status, cold.status)
    np.testing.assert_allclose(warm.load, cold.load, rtol=0, atol=1e-12)
    assert (np.delete(warm.steps - cold.steps, [2, 4]) < 0).all()


def test_wrong_starts_are_refused():
    game = Game(jnp.zeros((2, 3)), 1.0, weight=jnp.full(2, 0.5))
    with pytest.raises(ValueError, match=r"start has shape \(2, 3\) for 3 experts"):
        solve_equilibrium(game, start=jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="'picard' takes no start"):
        solve_equilibrium(game, start=jnp.zeros(3), method="picard")
    with pytest.raises(ValueError, match=r"\(5, 3\) is needed, a load a game"):
        solve_equilibria(Game(jnp.zeros((5, 3)), 1.0), start=jnp.zeros(3))
