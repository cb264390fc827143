"""`solve_equilibrium`: nothing unsolved over the whole range; failures reported, not raised."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.equilibrium import Status, check, solve_equilibrium
from mfgjax.game import CapacityBarrier, Game, Linear, Power
from tests.equilibrium.games import draw

TARGET = 1e-12  # L1 residual in float64, fraction of tokens
SHARE = 1e-12  # rounding of loads that should sum to 1


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


@pytest.mark.parametrize("types", [None, 4])
def test_nothing_is_unsolved_over_the_whole_range(solve_batch, types):
    game = draw(0, 300, types, 64)
    solution = check(solve_batch(game))
    assert independent_residual(game, solution).max() <= TARGET
    assert np.abs(solution.load.sum(-1) - 1).max() <= SHARE


def test_float32_reaches_its_rounding_floor(solve_batch):
    game = draw(1, 300, None, 64, np.float32)
    solution = check(solve_batch(game))
    assert solution.load.dtype == np.float32
    wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), game)
    exact = check(solve_batch(wide))
    apart = np.asarray(solution.load, np.float64) - np.asarray(exact.load)
    assert np.abs(apart).sum(-1).max() <= 1e-4


STEEP = {"root": (200, 3, 16, Power(0.5)), "barrier": (50, 1, 32, CapacityBarrier(0.05))}


@pytest.mark.parametrize("name", STEEP)
def test_steep_costs_are_solved_at_any_congestion(solve_batch, name):
    *shape, cost = STEEP[name]  # the shapes of tests below: one program for both
    game = draw(3, *shape, cost=cost, spread=20)
    solution = check(solve_batch(game))
    assert (solution.error_bound < 1e-6).all()


def in_long_double(game, solution, price):
    """L1 distance of the dispatch fractions from their best response, and the sums of their loads."""
    wide = lambda leaf: np.asarray(leaf).astype(np.longdouble)  # noqa: E731
    rows = wide(solution.load)[:, None] if game.weight is None else wide(solution.type_load)
    weight = np.ones((len(rows), 1)) if game.weight is None else wide(game.weight)
    load = np.einsum("bk,bki->bi", weight, rows)
    felt = wide(game.congestion)[:, None] * price(load)
    net = wide(game.quality).reshape(rows.shape) - felt[:, None]
    logits = net / wide(game.temperature)[:, None, None]
    answer = np.exp(logits - logits.max(-1, keepdims=True))
    away = np.abs(answer / answer.sum(-1, keepdims=True) - rows).sum(-1)
    return (weight * away).sum(-1), rows.sum(-1)


@pytest.mark.parametrize(("types", "experts"), [(None, 2), (3, 16)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_powers_are_solved_at_any_congestion_and_temperature(solve_batch, types, experts, dtype):
    size = 200
    rng = np.random.default_rng(experts)
    plain = draw(6, size, types, experts, dtype)
    exponent = rng.choice([0.5, 2.0, 3.0, 8.0], size).astype(dtype)
    temperature = 10 ** rng.uniform(-1.3, 0.7, size)
    game = Game(plain.quality, plain.congestion, temperature, plain.weight, Power(exponent))
    solution = solve_batch(game)
    away, total = in_long_double(game, solution, lambda load: load ** exponent[:, None])
    status = np.asarray(solution.status)
    assert np.abs(total - 1).max() <= 8 * np.finfo(dtype).eps
    if dtype == np.float64:
        check(solution)
        assert away.max() <= 1e-8  # rounding, at gamma/lambda up to 1e5/.05
    else:  # the steepest prices are beyond float32, and said to be
        assert np.isin(status, [Status.CONVERGED, Status.PRECISION]).all()
        assert (away[status == Status.CONVERGED] <= 0.02).all()


def test_games_that_once_ended_in_absurd_loads(solve_batch):
    """As many copies as there are games above, which compiled it."""
    known, even = [2.3934109394292835, -1.6364409177333479], [5.0, 5.0]
    both = check(solve_batch(Game(np.array([known, even] * 100), 1e3, cost=Power(2.0))))
    assert float(both.residual[0]) < 1e-12
    assert float(both.load[0, 0]) == pytest.approx(0.502, abs=1e-4)
    np.testing.assert_allclose(both.load[1], 0.5, rtol=1e-14)
    narrow = Game(np.array([[2.1417, -3.9323]] * 200, np.float32), 200, cost=Power(3.0))
    assert check(solve_batch(narrow)).error_bound.max() < 1e-3


def test_types_at_low_temperatures(solve_batch):
    """q/lambda up to 2,500: loads are staircases of prices. The first game once took many steps."""
    game = draw(7, 200, 2, 2)
    quality, congestion, weight = map(np.array, (game.quality, game.congestion, game.weight))
    temperature = np.full(200, 0.02)
    quality[0], congestion[0], temperature[0] = [0, 61.336], 2649.86, 0.0043668
    weight[0] = 0.6515, 0.3485
    cold = Game(quality, congestion, temperature, weight)
    solution = check(solve_batch(cold))
    away, _ = in_long_double(cold, solution, lambda load: load)
    assert away.max() <= 1e-8
    assert int(solution.steps[0]) < 30


def test_16_bit_logits_are_taken_exactly_and_16_bit_games_refused(solve_batch):
    logits = np.random.default_rng(8).normal(size=(300, 64)).astype(jnp.bfloat16)
    game = Game(logits, 3.0)
    assert game.quality.dtype == jnp.float32
    np.testing.assert_array_equal(game.quality, logits.astype(np.float32))
    assert check(solve_batch(game)).error_bound.max() < 1e-4
    with pytest.raises(TypeError, match="float16"):
        solve_equilibrium(jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float16), game))


def test_a_loop_outside_jit_compiles_once_whatever_the_tolerance():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    jax.jit(lambda x: x + 1)(0.0)
    assert compiled, "or the listener hears nothing"
    for congestion in np.linspace(1, 5, 410):
        solve_equilibrium(Game(np.linspace(0, 1, 64), congestion), tol=1e-9 * congestion)
    assert len(compiled) < 40  # one solve, and the casts and repeats of Game


def test_identical_types_and_vanishing_weights(solve_batch):
    single = draw(4, 300, None, 64)
    quality = np.repeat(np.asarray(single.quality)[:, None, :], 4, axis=1)
    weight = np.array([1 - 1e-9, 1e-9, 0, 0])
    typed = check(solve_batch(Game(quality, single.congestion, 1.0, weight)))
    alone = check(solve_batch(single))
    np.testing.assert_allclose(typed.load, alone.load, rtol=0, atol=1e-11)
    np.testing.assert_allclose(typed.type_load[:, 2], alone.load, rtol=0, atol=1e-9)


def test_batch_equals_loop(solve_batch):
    game = draw(5, 300, None, 64)
    batch = solve_batch(game)
    leaves, shape = jax.tree.flatten(jax.device_get(game))
    one = [jax.tree.unflatten(shape, [leaf[i] for leaf in leaves]) for i in range(7)]
    tol = np.float64(1e-12)  # of one type with those of the loop above: one program for both
    loop = [np.asarray(solve_equilibrium(game, tol=tol).load) for game in one]
    np.testing.assert_allclose(batch.load[:7], loop, rtol=0, atol=1e-13)


def test_bad_instances_leave_the_batch_alone(solve_batch):
    good = Game(np.zeros((50, 1, 32)), 5.0, 1.0, np.ones(1), CapacityBarrier(1.0))
    fields = lambda game: (game.quality, game.temperature, game.cost.capacity, game.weight)  # noqa: E731
    quality, temperature, capacity, weight = map(np.array, fields(good))
    quality[1, 0, 2], temperature[2], capacity[3], weight[4] = np.nan, -1, 0.02, 0.7
    solution = solve_batch(eqx.tree_at(fields, good, (quality, temperature, capacity, weight)))
    bad = Status.BAD_INPUT
    assert solution.status[:5].tolist() == [Status.CONVERGED, bad, bad, Status.INFEASIBLE, bad]
    assert (solution.status[5:] == Status.CONVERGED).all()
    assert np.isnan(solution.load[1:5]).all()
    np.testing.assert_allclose(np.delete(solution.load, range(1, 5), 0), 1 / 32, atol=SHARE)
    with pytest.raises(
        RuntimeError, match=r"3 of 50 game\(s\) at \(1,\), \(2,\), \(4,\): BAD_INPUT"
    ):
        check(solution)


def test_step_limit_is_reported_and_its_derivative_is_nan():
    """In forward mode, and in reverse, which is its transpose."""

    def load(game):
        solution = solve_equilibrium(game, max_steps=4)
        return solution.load, solution.status

    @jax.jit
    def both_modes(game):
        _, push, status = jax.linearize(load, game, has_aux=True)
        pull = jax.linear_transpose(push, game)
        return status, push(jax.tree.map(jnp.ones_like, game)), pull(jnp.ones(3))

    status, *modes = both_modes(Game(np.array([40.0, 0.0, -40.0]), 300.0))
    assert int(status) == Status.STEP_LIMIT
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(modes))


def test_a_batch_without_vmap_is_refused():
    with pytest.raises(ValueError, match="vmap"):
        solve_equilibrium(Game(jnp.zeros((2, 3)), 1.0))
    with pytest.raises(ValueError, match="newton"):
        solve_equilibrium(Game(jnp.zeros(3), 1.0, cost=Linear()), method="newtn")
