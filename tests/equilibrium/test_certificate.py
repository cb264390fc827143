"""The certificate is honest: never smaller than the true error, found in 60-digit arithmetic."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.studies import solver_survey
from mfgjax.equilibrium import solve_equilibrium
from mfgjax.equilibrium.certificate import certify
from mfgjax.equilibrium.scaled import scale
from mfgjax.game import CapacityBarrier, Game, Power, Softplus
from mfgjax.game.potential import dual, gap, potential
from mfgjax.game.response import best_response
from mfgjax.numerics.status import Status
from mfgjax.price.run_price import PriceState
from tests.equilibrium.games import slow_equilibrium

logits = st.floats(-50, 50)
positive = st.floats(-3, 5).map(lambda exponent: 10**exponent)
EXPERTS = 4


def exact_load(quality, congestion, temperature):
    """Equilibrium of one type to 60 digits, by Newton on the normaliser; inputs taken as exact.

    The loads' sum falls and is convex in the normaliser: from where the best expert alone has load 1,
    Newton never oversteps.
    """
    mpmath.mp.dps = 60
    q = [mpmath.mpf(float(value)) / mpmath.mpf(float(temperature)) for value in quality]
    ratio = mpmath.mpf(float(congestion)) / mpmath.mpf(float(temperature))
    nu = max(q) - ratio
    for _ in range(100):
        prices = [mpmath.lambertw(ratio * mpmath.exp(value - nu)).real for value in q]
        excess = sum(prices) / ratio - 1
        if abs(excess) < mpmath.mpf(10) ** -50:
            return [price / ratio for price in prices]
        nu += excess * ratio / sum(price / (1 + price) for price in prices)
    raise AssertionError(f"the reference does not converge: off by {float(excess)}")


def distance(load, exact):
    return float(sum(abs(mpmath.mpf(float(a)) - b) for a, b in zip(load, exact, strict=True)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(
    quality=st.lists(logits, min_size=EXPERTS, max_size=EXPERTS),
    congestion=positive,
    temperature=st.floats(0.05, 20),
)
@settings(max_examples=40, deadline=None)
def test_bound_of_a_solution_is_never_too_small(dtype, quality, congestion, temperature):
    game = Game(np.asarray(quality, dtype), dtype(congestion), dtype(temperature))
    solution = solve_equilibrium(game)
    truth = distance(solution.load, exact_load(game.quality, game.congestion, game.temperature))
    assert truth <= float(solution.error_bound)
    assert float(solution.gap) >= 0


@jax.jit
def bound_of(game, load):
    return certify(scale(game, jnp.ones((), bool)), load[None, :]).bound


bounds_of = jax.jit(jax.vmap(bound_of))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(
    quality=st.lists(st.floats(-5, 5), min_size=EXPERTS, max_size=EXPERTS),
    congestion=positive,
    noise=st.lists(st.floats(-1, 1), min_size=EXPERTS, max_size=EXPERTS),
    size=st.floats(-16, 1).map(lambda exponent: 10**exponent),
)
@settings(max_examples=40, deadline=None)
def test_bound_of_any_load_is_never_too_small(dtype, quality, congestion, noise, size):
    """Loads that no solver returned, from next to the equilibrium to far from it."""
    game = Game(np.asarray(quality, dtype), dtype(congestion))
    exact = exact_load(game.quality, game.congestion, 1.0)
    load = np.asarray([float(e) for e in exact]) * np.exp(size * np.asarray(noise))
    load = (load / load.sum()).astype(dtype)
    assert distance(load, exact) <= float(bound_of(game, jnp.asarray(load)))


def loads_by_bisection(quality, ratio, price):
    """Equilibria of one type, `price` the shape of the cost, in long double; temperature 1."""
    width = np.longdouble
    x, ratio = np.asarray(quality, width), np.asarray(ratio, width)[:, None]
    low, high = x.min(-1, keepdims=True) - ratio * price(width(1)) - 1, x.max(-1, keepdims=True) + 9
    for _ in range(100):
        level = (low + high) / 2
        under, over = np.full_like(x, -12000), np.zeros_like(x)  # log loads
        for _ in range(90):
            middle = (under + over) / 2
            above = middle + ratio * price(np.exp(middle)) > x - level
            under, over = np.where(above, under, middle), np.where(above, middle, over)
        load = np.exp((under + over) / 2)
        full = load.sum(-1, keepdims=True) > 1
        low, high = np.where(full, level, low), np.where(full, high, level)
    return load


NONLINEAR = {
    "square": (Power(2.0), lambda f: f**2),
    "cube": (Power(3.0), lambda f: f**3),
    "root": (Power(0.5), np.sqrt),
    "softplus": (Softplus(0.25, 8.0), lambda f: np.logaddexp(0, 8 * (f - np.longdouble(0.25))) / 8),
}


@pytest.mark.parametrize("name", NONLINEAR)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_nonlinear_costs_are_bounded_on_and_off_the_simplex(solve_batch, name, dtype):
    """The solution; the same times 3, 1e6 and 1.001; loads that are nowhere near, or negative."""
    cost, price = NONLINEAR[name]
    rng = np.random.default_rng(0)
    size, experts = 24, 3
    game = Game(
        rng.uniform(-20, 20, (size, experts)).astype(dtype),
        (10 ** rng.uniform(-2, 4, size)).astype(dtype),
        cost=cost,
    )
    exact = loads_by_bisection(game.quality, game.congestion, price)
    solution = solve_batch(game)
    assert (np.asarray(solution.status) == 0).all()
    load = np.asarray(solution.load)
    assert (np.abs(load - exact).sum(-1) <= np.asarray(solution.error_bound)).all()
    for other in (3 * load, 1e6 * load, 1.001 * load, load[:, ::-1], load - 0.1, 0 * load):
        other = other.astype(dtype)
        bound = np.asarray(bounds_of(game, jnp.asarray(other)))
        assert (np.abs(other - exact).sum(-1) <= bound).all()
    assert np.isinf(bounds_of(game, jnp.full((size, experts), jnp.inf, dtype))).all()


def test_rounding_of_a_threshold_is_told_from_a_search_that_stopped(solve_batch):
    """Games of the survey: two at prices of 4e5 and 1e6, far below the threshold, ended STEP_LIMIT."""
    make, price = solver_survey.COSTS["softplus"]
    game = solver_survey.draw(60, 1, 64, make(), seed=65)
    game = jax.tree.map(lambda leaf: leaf.astype(np.float64), game)
    solution = solve_batch(game)
    assert (np.asarray(solution.status) == 0).all()
    steep = np.array([6, 23])
    exact = solver_survey.loads_by_bisection(jax.tree.map(lambda leaf: leaf[steep], game), price, 1)
    away = np.abs(np.asarray(solution.load)[steep] - exact).sum(-1)
    assert (away <= np.asarray(solution.error_bound)[steep]).all()
    assert away.max() < 1e-13


def test_bound_of_a_load_on_its_capacity_is_not_vouched_for():
    game = Game(jnp.array([9.0, 0.0]), 1e-3, cost=CapacityBarrier(0.6))
    assert float(bound_of(game, jnp.array([0.6, 0.4]))) == 2


def test_a_status_is_printed_as_a_word():
    assert "status=CONVERGED" in repr(solve_equilibrium(Game(np.arange(4.0), 5.0)))
    assert f"{Status(4)}, {PriceState.NO_PRICE}" == "CYCLE, NO_PRICE"


def test_bound_is_tight_enough_to_be_useful(solve_batch):
    rng = np.random.default_rng(0)
    game = Game(rng.normal(0, 0.6, (300, 64)), 10 ** rng.uniform(-1, np.log10(200), 300))
    assert float(solve_batch(game).error_bound.max()) <= 1e-13


def test_gap_is_potential_plus_dual_and_bounds_the_distance_of_types():
    rng = np.random.default_rng(1)
    game = Game(rng.normal(size=(3, 6)), 5.0, 0.7, rng.dirichlet(np.ones(3)))
    star = slow_equilibrium(np.asarray(game.quality), 5.0, np.asarray(game.weight), 0.7)

    @jax.jit
    def told(near):
        total = potential(game, near) + dual(game, game.weight @ near)
        answer = best_response(game, game.weight @ star)
        bound = certify(scale(game, jnp.ones((), bool)), near).bound
        return gap(game, near), total, bound, gap(game, answer)

    for size in (1e-3, 0.1, 2.0):
        near = star * np.exp(size * rng.normal(size=(3, 6)))
        near /= near.sum(-1, keepdims=True)
        gap_there, total, bound, gap_at_star = map(float, told(near))
        assert gap_there == pytest.approx(total, rel=1e-7, abs=1e-9)
        away = np.sqrt(game.weight @ np.abs(near - star).sum(-1) ** 2)
        assert away <= np.sqrt(2 * gap_there / game.temperature)
        assert away <= bound
    assert gap_at_star < 1e-14
