"""`solve_equilibrium`: nothing unsolved over the whole range; failures reported, not raised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import root

from mfgjax.equilibrium import Status, check, solve_equilibrium
from mfgjax.game import CapacityBarrier, Game, Linear, Power
from mfgjax.game.response import aggregate, best_response
from tests.equilibrium.games import COSTS, draw

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


@pytest.mark.parametrize("types", [None, 2, 8])
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


@pytest.mark.parametrize("name", COSTS)
def test_every_cost_against_scipy(name):
    game = jax.tree.map(lambda leaf: leaf[0], draw(2, 1, 3, 5, cost=COSTS[name], spread=2, top=1))
    solution = check(solve_equilibrium(game))

    def away(log_load):
        load = jnp.asarray(np.exp(log_load))
        return np.asarray(jnp.log(aggregate(game, best_response(game, load)))) - log_load

    start = np.log(np.full(5, 0.2))
    expected = np.exp(root(away, start, method="df-sane", options={"fatol": 1e-13}).x)
    np.testing.assert_allclose(solution.load, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("cost", [Power(0.5), CapacityBarrier(0.05)], ids=["root", "barrier"])
def test_steep_costs_are_solved_at_any_congestion(solve_batch, cost):
    game = draw(3, 50, None, 32, cost=cost, spread=20)
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


@pytest.mark.parametrize("types", [None, 3])
@pytest.mark.parametrize("experts", [2, 16])
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


def test_games_that_once_ended_in_absurd_loads():
    known = jnp.array([2.3934109394292835, -1.6364409177333479])
    solve = jax.jit(solve_equilibrium)
    square = check(solve(Game(known, 1000.0, cost=Power(2.0))))
    assert float(square.residual) < 1e-12 and float(square.load[0]) == pytest.approx(
        0.502, abs=1e-4
    )
    even = check(solve(Game(jnp.full(2, 5.0), 1e3, cost=Power(2.0))))
    np.testing.assert_allclose(even.load, 0.5, rtol=1e-14)
    narrow = check(solve(Game(jnp.asarray([2.1417, -3.9323], jnp.float32), 200, cost=Power(3.0))))
    assert float(narrow.error_bound) < 1e-3


def test_types_at_low_temperatures(solve_batch):
    """q/lambda up to 2,500: loads are staircases of prices."""
    game = draw(7, 200, 3, 2)
    cold = Game(game.quality, game.congestion, 0.02, game.weight)
    solution = check(solve_batch(cold))
    away, _ = in_long_double(cold, solution, lambda load: load)
    assert away.max() <= 1e-8
    same = jnp.array([[0, 61.336], [0, 61.336]])
    solution = check(solve_equilibrium(Game(same, 2649.86, 0.0043668, jnp.array([0.6515, 0.3485]))))
    assert int(solution.steps) < 30


def test_16_bit_logits_are_taken_exactly_and_16_bit_games_refused():
    logits = jnp.asarray([1.0, 0.3, -2.0], jnp.bfloat16)
    game = Game(logits, 3.0)
    assert game.quality.dtype == jnp.float32
    assert float(check(solve_equilibrium(game)).error_bound) < 1e-4
    with pytest.raises(TypeError, match="float16"):
        solve_equilibrium(jax.tree.map(lambda leaf: leaf.astype(jnp.float16), game))


def test_a_loop_outside_jit_compiles_once():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    for congestion in np.linspace(1, 5, 410):
        solve_equilibrium(Game(np.array([1.0, 0.0, 0.5, 0.25, 0.125]), congestion))
    assert 0 < len(compiled) < 40  # one solve, and the casts and repeats of Game


def test_identical_types_and_vanishing_weights(solve_batch):
    single = draw(4, 40, None, 16)
    quality = jnp.repeat(single.quality[:, None, :], 3, axis=1)
    weight = jnp.asarray([1 - 1e-9, 1e-9, 0.0])
    typed = check(solve_batch(Game(quality, single.congestion, 1.0, weight)))
    alone = check(solve_batch(single))
    np.testing.assert_allclose(typed.load, alone.load, rtol=0, atol=1e-11)
    np.testing.assert_allclose(typed.type_load[:, 2], alone.load, rtol=0, atol=1e-9)


def test_batch_equals_loop(solve_batch):
    game = draw(5, 7, None, 8)
    batch = solve_batch(game)
    one = jax.jit(solve_equilibrium)
    loop = [one(jax.tree.map(lambda leaf, i=i: leaf[i], game)).load for i in range(7)]
    np.testing.assert_allclose(batch.load, jnp.stack(loop), rtol=0, atol=1e-13)


def test_bad_instances_leave_the_batch_alone():
    quality = np.zeros((5, 4))
    quality[1, 2] = np.nan
    temperature, capacity = np.array([1, 1, -1.0, 1, 1]), np.array([1, 1, 1, 0.2, 1])
    weight = np.array([[1.0], [1], [1], [1], [0.7]])

    @jax.jit
    @jax.vmap
    def solve(q, t, c, w):
        return solve_equilibrium(Game(q[None], 5.0, t, w, CapacityBarrier(c)))

    solution = solve(quality, temperature, capacity, weight)
    bad = Status.BAD_INPUT
    assert solution.status.tolist() == [Status.CONVERGED, bad, bad, Status.INFEASIBLE, bad]
    assert np.isnan(solution.load[1:]).all()
    np.testing.assert_allclose(solution.load[0], 0.25, rtol=0, atol=SHARE)
    with pytest.raises(
        RuntimeError, match=r"3 of 5 game\(s\) at \(1,\), \(2,\), \(4,\): BAD_INPUT"
    ):
        check(solution)


def test_step_limit_is_reported_and_its_derivative_is_nan():
    game = Game(jnp.array([40.0, 0.0, -40.0]), 300.0)
    short = lambda g: solve_equilibrium(g, max_steps=4)  # noqa: E731
    assert int(short(game).status) == Status.STEP_LIMIT
    for gradient in (jax.grad(lambda g: short(g).load[0]), jax.jacfwd(lambda g: short(g).load[0])):
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(gradient(game)))


def test_tolerance_is_traced():
    traces = []

    @jax.jit
    def solve(game, tol):
        traces.append(None)
        return solve_equilibrium(game, tol=tol).status

    game = Game(jnp.array([1.0, 0.0]), 2.0)
    assert int(solve(game, 1e-6)) == int(solve(game, 1e-9)) == Status.CONVERGED
    assert len(traces) == 1


def test_a_batch_without_vmap_is_refused():
    with pytest.raises(ValueError, match="vmap"):
        solve_equilibrium(Game(jnp.zeros((2, 3)), 1.0))
    with pytest.raises(ValueError, match="newton"):
        solve_equilibrium(Game(jnp.zeros(3), 1.0, cost=Linear()), method="newtn")
