"""A load to start from: the same equilibrium in fewer steps, and never a worse answer."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.equilibrium import Status, check, solve_equilibria, solve_equilibrium
from mfgjax.game import Game
from tests.equilibrium.games import draw

GAMES = 40
solve = partial(
    solve_equilibria, block=100
)  # of 360 games of two types and six experts: one program a dtype


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_any_start_leads_to_the_same_equilibrium(dtype):
    """Near, far and absurd starts of 40 games of two types, q/lambda up to 30."""
    one = draw(11, GAMES, 2, 6, dtype, spread=30.0, top=2.0)
    congestion = np.tile(one.congestion, 9)
    congestion[:GAMES] *= dtype(1.01)  # the first row starts from the load before that change
    games = Game(np.tile(one.quality, (9, 1, 1)), congestion, 1.0, np.tile(one.weight, (9, 1)))
    # In float32 a refused start stands for none: float64 has shown that it does.
    none = {"start": np.full((9 * GAMES, 6), np.nan, dtype)} if dtype == np.float32 else {}
    cold = check(solve(games, **none))
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
    warm = check(solve(games, start=np.concatenate(starts)))
    loads = np.asarray(warm.load), np.asarray(cold.load)
    apart = np.abs(np.subtract(*loads, dtype=np.float64)).sum(-1)
    assert (apart <= np.add(warm.error_bound, cold.error_bound)).all()
    steps = [np.asarray(found.steps).reshape(9, GAMES) for found in (cold, warm)]
    steps[0] = steps[0] - len(none)  # the step that a refused start costs
    more = steps[1] - steps[0]
    assert more.max() == 1 and more[1].max() <= -1
    assert steps[1][0].sum() < 0.7 * steps[0][0].sum()
    same = np.equal(*loads).all(-1).reshape(9, GAMES)
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

    near, taken = gradient(game.quality, np.asarray(cold.load))
    far, refused = gradient(game.quality, np.full(3, np.nan))
    assert int(taken.steps) < int(cold.steps) == int(refused.steps) - 1
    assert int(check(refused).status) == Status.CONVERGED
    np.testing.assert_array_equal(refused.load, cold.load)
    assert not near[1].any() and not far[1].any()
    np.testing.assert_allclose(near[0], far[0], rtol=0, atol=1e-12)
    assert float(jnp.abs(near[0]).max()) > 1e-3


def test_blocks_take_a_start_each_and_bad_games_stay_bad():
    """Negative congestion keeps its answer, whichever equilibrium the start is. Seven games, over and over."""
    which = np.arange(9 * GAMES) % 7
    games = jax.tree.map(lambda leaf: leaf[which], draw(13, 7, 2, 6, spread=10.0, top=2.0))
    fields = lambda game: (game.quality, game.congestion)  # noqa: E731
    quality, congestion = map(np.array, fields(games))
    quality[which == 4, 0, 1], congestion[which == 2] = np.nan, -30
    games = eqx.tree_at(fields, games, (jnp.asarray(quality), jnp.asarray(congestion)))
    cold = solve(games)
    start = np.array(cold.load)
    start[which == 2], start[which == 4] = np.eye(6)[0], 1 / 6
    warm = solve(games, start=start)
    want = [0, 0, Status.NOT_UNIQUE, 0, Status.BAD_INPUT, 0, 0]
    np.testing.assert_array_equal(cold.status, np.array(want)[which])
    np.testing.assert_array_equal(warm.status, cold.status)
    np.testing.assert_allclose(warm.load, cold.load, rtol=0, atol=1e-12)
    assert (np.subtract(warm.steps, cold.steps)[~np.isin(which, [2, 4])] < 0).all()


def test_wrong_starts_are_refused():
    game = Game(jnp.zeros((2, 3)), 1.0, weight=jnp.full(2, 0.5))
    with pytest.raises(ValueError, match=r"start has shape \(2, 3\) for 3 experts"):
        solve_equilibrium(game, start=jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="'picard' takes no start"):
        solve_equilibrium(game, start=jnp.zeros(3), method="picard")
    with pytest.raises(ValueError, match=r"\(5, 3\) is needed, a load a game"):
        solve_equilibria(Game(jnp.zeros((5, 3)), 1.0), start=jnp.zeros(3))
