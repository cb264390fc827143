"""The certificate is honest: never smaller than the true error, found in 60-digit arithmetic."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfgjax.equilibrium import solve_equilibrium
from mfgjax.equilibrium.evidence import examine
from mfgjax.equilibrium.scaled import scale
from mfgjax.game import Game, best_response, dual, gap, potential

logits = st.floats(-50, 50)
positive = st.floats(-3, 5).map(lambda exponent: 10**exponent)
EXPERTS = 4


def exact_load(quality, congestion, temperature):
    """Equilibrium of one type to 60 digits, by bisection on the normaliser; inputs taken as exact."""
    mpmath.mp.dps = 60
    q = [mpmath.mpf(float(value)) / mpmath.mpf(float(temperature)) for value in quality]
    ratio = mpmath.mpf(float(congestion)) / mpmath.mpf(float(temperature))

    def loads(nu):
        return [mpmath.lambertw(ratio * mpmath.exp(value - nu)).real / ratio for value in q]

    low, high = min(q) - ratio - 1, max(q) + len(q)
    for _ in range(230):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(loads(middle)) > 1 else (low, middle)
    return loads((low + high) / 2)


def distance(load, exact):
    return float(sum(abs(mpmath.mpf(float(a)) - b) for a, b in zip(load, exact, strict=True)))


solve = jax.jit(solve_equilibrium)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(
    quality=st.lists(logits, min_size=EXPERTS, max_size=EXPERTS),
    congestion=positive,
    temperature=st.floats(0.05, 20),
)
@settings(max_examples=40, deadline=None)
def test_bound_of_a_solution_is_never_too_small(dtype, quality, congestion, temperature):
    game = Game(np.asarray(quality, dtype), dtype(congestion), dtype(temperature))
    solution = solve(game)
    truth = distance(solution.load, exact_load(game.quality, game.congestion, game.temperature))
    assert truth <= float(solution.error_bound)
    assert float(solution.gap) >= 0


@jax.jit
def bound_of(game, load):
    return examine(scale(game, jnp.ones((), bool)), load, load[None, :]).bound


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


def test_bound_is_tight_enough_to_be_useful(solve_batch):
    rng = np.random.default_rng(0)
    game = Game(rng.normal(0, 0.6, (300, 64)), 10 ** rng.uniform(-1, np.log10(200), 300))
    assert float(solve_batch(game).error_bound.max()) <= 1e-13


def test_gap_is_potential_plus_dual_and_bounds_the_distance_of_types():
    rng = np.random.default_rng(1)
    game = Game(rng.normal(size=(3, 6)), 5.0, 0.7, rng.dirichlet(np.ones(3)))
    star = solve(game).type_load
    for size in (1e-3, 0.1, 2.0):
        near = jax.nn.softmax(jnp.log(star) + size * rng.normal(size=(3, 6)))
        load = game.weight @ near
        np.testing.assert_allclose(
            gap(game, near), potential(game, near) + dual(game, load), atol=1e-9
        )
        away = np.sqrt(game.weight @ jnp.abs(near - star).sum(-1) ** 2)
        assert away <= np.sqrt(2 * gap(game, near) / game.temperature)
        assert away <= examine(scale(game, jnp.ones((), bool)), load, near).bound
    assert float(gap(game, best_response(game, game.weight @ star))) < 1e-14
