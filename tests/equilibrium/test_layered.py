"""The coupled equilibrium against enumeration of every path, in numpy, scipy and mpmath."""

from itertools import product

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.optimize import root

from mfgjax.equilibrium import Status, check
from mfgjax.equilibrium.layered import solve_layered, solve_layers_apart
from mfgjax.game.layered import LayeredGame, load_covariance, sweep
from mfgjax.scope.bounds import coupling_bound, coupling_bound_without_contraction

LAYERS, EXPERTS = 3, 4
CLOSE = 1e-10  # both are solved to about 1e-12
DIFFERENCE = 1e-6  # finite differences of order 2


def make(congestion=3.0, temperature=0.7, scale=1.5, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    entry = scale * rng.normal(size=EXPERTS)
    quality = scale * rng.normal(size=(LAYERS - 1, EXPERTS, EXPERTS))
    own = congestion * rng.uniform(0.2, 1, LAYERS)
    return LayeredGame(entry.astype(dtype), quality.astype(dtype), own, temperature)


def path_values(game, paths):
    """Sum of qualities along each path."""
    total = np.asarray(game.entry)[paths[:, 0]]
    for layer, quality in enumerate(np.asarray(game.quality)):
        total = total + quality[paths[:, layer], paths[:, layer + 1]]
    return total


def loads_by_paths(game, price):
    """Loads at `price` from the softmax over all paths."""
    paths = np.array(list(product(range(EXPERTS), repeat=LAYERS)))
    logits = path_values(game, paths) - price[np.arange(LAYERS), paths].sum(-1)
    weight = np.exp((logits - logits.max()) / float(game.temperature))
    weight /= weight.sum()
    return np.array([np.bincount(paths[:, k], weight, EXPERTS) for k in range(LAYERS)])


def by_scipy(game):
    gamma = np.asarray(game.congestion)[:, None]

    def off(load):
        load = load.reshape(LAYERS, EXPERTS)
        return (loads_by_paths(game, gamma * load) - load).ravel()

    found = root(off, np.full(LAYERS * EXPERTS, 1 / EXPERTS), tol=1e-13)
    assert np.abs(off(found.x)).max() < 1e-11
    return found.x.reshape(LAYERS, EXPERTS)


solve = jax.jit(solve_layered, static_argnames="method")
BATCH = 21


@jax.jit
@jax.vmap
def both(game):
    coupled = solve_layered(game)
    apart = solve_layers_apart(game, coupled.load)
    tight = coupling_bound_without_contraction(coupled.spread, game.temperature)
    papers = coupling_bound(coupled.spread, game.congestion, game.temperature)
    return coupled, apart, jnp.abs(coupled.load - apart.load).sum(-1), (tight, papers)


def in_one_batch(games):
    """`both` of each game; filled up, so that the tests below share one program."""
    games = [*games, *[games[-1]] * (BATCH - len(games))]
    return jax.device_get(both(jax.tree.map(lambda *leaves: np.stack(leaves), *games)))


def test_equilibrium_is_that_of_enumerated_paths():
    games = [make(congestion) for congestion in (0.0, 0.5, 3.0, 30.0)]
    solution = check(in_one_batch(games)[0])
    for game, load in zip(games, solution.load, strict=False):
        np.testing.assert_allclose(load, by_scipy(game), atol=CLOSE)
    np.testing.assert_allclose(solution.load.sum(-1), 1, rtol=1e-13)
    np.testing.assert_allclose(solution.policy.sum(-1), 1, rtol=1e-12)
    swept = check(solve(games[-1], method="sweep"))
    np.testing.assert_allclose(swept.load, solution.load[len(games) - 1], atol=CLOSE)


def exact_loads(game):
    """Equilibrium of two layers of two experts to 40 digits; inputs taken as exact."""
    mpmath.mp.dps = 50
    number = lambda value: mpmath.mpf(float(value))  # noqa: E731
    entry = [number(v) for v in game.entry]
    quality = [[number(v) for v in row] for row in game.quality[0]]
    gamma, temperature = [number(c) for c in game.congestion], number(game.temperature)

    def off(a, b):
        weight = {
            (i, j): mpmath.exp(
                (entry[i] + quality[i][j] - gamma[0] * (a, 1 - a)[i] - gamma[1] * (b, 1 - b)[j])
                / temperature
            )
            for i, j in product(range(2), repeat=2)
        }
        total = sum(weight.values())
        return [
            (weight[0, 0] + weight[0, 1]) / total - a,
            (weight[0, 0] + weight[1, 0]) / total - b,
        ]

    guess = solve(game).load
    a, b = mpmath.findroot(off, (number(guess[0, 0]), number(guess[1, 0])))
    return [[a, 1 - a], [b, 1 - b]]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_error_bound_is_never_too_small(dtype):
    rng = np.random.default_rng(3)
    for congestion in (0.1, 4.0, 40.0, 400.0):
        scale = rng.choice([0.5, 5])
        entry, quality = scale * rng.normal(size=2), scale * rng.normal(size=(1, 2, 2))
        game = LayeredGame(
            entry.astype(dtype), quality.astype(dtype), congestion * rng.uniform(0.3, 1, 2), 0.6
        )
        solution = solve(game)
        exact = exact_loads(game)
        for got, want in zip(np.asarray(solution.load, float), exact, strict=True):
            error = sum(abs(mpmath.mpf(float(g)) - w) for g, w in zip(got, want, strict=True))
            assert float(error) <= float(solution.error_bound)
        assert int(solution.status) == Status.CONVERGED
        assert float(solution.error_bound) < (1e-9 if dtype == np.float64 else 1)


def test_covariance_is_the_jacobian_of_loads():
    game = make()
    price = jnp.asarray(np.random.default_rng(1).normal(size=(LAYERS, EXPERTS)))

    @jax.jit
    def told(price):
        flow = sweep(game, price)
        return jax.jacobian(lambda p: sweep(game, p).load)(price), load_covariance(flow)

    jacobian, covariance = told(price)
    np.testing.assert_allclose(-jacobian * game.temperature, covariance, atol=1e-14)


def test_derivatives_in_both_modes():
    game = make()
    leaves, shape = jax.tree.flatten(game)
    target = jnp.asarray(np.random.default_rng(4).normal(size=(LAYERS, EXPERTS)))

    def functional(leaves):
        return (target * solve_layered(jax.tree.unflatten(shape, leaves)).load).sum()

    direction = [jnp.asarray(np.random.default_rng(5).normal(size=leaf.shape)) for leaf in leaves]

    def along(t):
        moved = [x + t * d for x, d in zip(leaves, direction, strict=True)]
        value, gradient = jax.value_and_grad(functional)(moved)
        return value, sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))

    @jax.jit
    def with_slopes(t):  # forward over reverse
        return jax.jvp(along, (t,), (1.0,))

    step = 1e-4
    (high, slope_high), (low, slope_low) = (with_slopes(t)[0] for t in (step, -step))
    slope, second = with_slopes(0.0)
    numeric = float((high - low) / (2 * step))
    assert float(slope[1]) == pytest.approx(numeric, rel=DIFFERENCE)
    assert float(second[0]) == pytest.approx(numeric, rel=DIFFERENCE)
    assert float(second[1]) == pytest.approx(float((slope_high - slope_low) / (2 * step)), rel=1e-5)


def test_a_bad_instance_spoils_no_other():
    game = make()
    broken = eqx.tree_at(lambda g: g.congestion, game, -game.congestion)
    solution, *_ = in_one_batch([game, broken, game])
    want = [Status.CONVERGED, Status.BAD_INPUT, *[Status.CONVERGED] * (BATCH - 2)]
    assert solution.status.tolist() == want
    alone, *_ = in_one_batch([game])
    np.testing.assert_array_equal(solution.load[2], alone.load[2])
    assert np.isnan(solution.load[1]).all()
    with pytest.raises(RuntimeError, match=rf"1 of {BATCH} stack\(s\) at \(1,\): BAD_INPUT"):
        check(solution, name="stack")
    with pytest.raises(ValueError, match="congestion must be finite and >= 0"):
        LayeredGame(game.entry, game.quality, -1.0)
    with pytest.raises(ValueError, match="choose 'newton' or 'sweep'"):
        solve_layered(game, method="picard")


def test_theorem_holds_and_exogenous_quality_decouples_layers():
    games = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        games.append(
            make(10 ** rng.uniform(-2, 1.5), rng.uniform(0.5, 2), rng.uniform(0.1, 1), seed)
        )
    game = games[-1]
    same = np.broadcast_to(game.quality[:, :1], game.quality.shape)
    exogenous = LayeredGame(game.entry, same, game.congestion, game.temperature)
    coupled, apart, distance, bounds = in_one_batch([*games, exogenous])
    check(coupled), check(apart)
    assert all((distance <= bound + CLOSE).all() for bound in bounds)
    assert (distance[:, -1] < CLOSE).all()  # nothing follows the last layer
    assert coupled.spread[-1].max() < 1e-12
    np.testing.assert_allclose(coupled.load[-1], apart.load[-1], atol=CLOSE)
