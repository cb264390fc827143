"""The other methods, the truncated response, and the parts that the solver stands on."""

from functools import partial

import jax
import numpy as np
import pytest
from scipy.special import wrightomega

from mfgjax.equilibrium import Status, solve_equilibrium
from mfgjax.equilibrium.logarithm import logarithm
from mfgjax.equilibrium.truncated import solve_truncated
from mfgjax.equilibrium.type_system import eliminate
from mfgjax.game import Game
from mfgjax.game.response import truncated_response
from mfgjax.numerics.wright_omega import wright_omega
from tests.equilibrium.games import slow_equilibrium


@pytest.mark.parametrize("method", ["picard", "damped_picard", "anderson", "mirror"])
def test_methods_agree_with_the_equilibrium_where_they_converge(method):
    rng = np.random.default_rng(0)
    quality, congestion = rng.normal(size=(20, 3, 6)), 10 ** rng.uniform(-1, 2, 20)
    weight = np.ones(3) / 3
    other = jax.jit(
        jax.vmap(lambda g: solve_equilibrium(g, method=method, tol=1e-9, max_steps=3000))
    )(Game(quality, congestion, 1.0, weight))
    exact = weight @ slow_equilibrium(quality, congestion, weight)
    done = np.asarray(other.converged)
    away = np.abs(np.asarray(other.load) - exact).sum(-1)
    assert done.mean() >= (0.3 if method == "picard" else 0.7)
    assert (np.asarray(other.status)[~done] == Status.STEP_LIMIT).all()
    assert (away <= np.asarray(other.error_bound) + 1e-13).all()  # even the failed are bounded


@partial(jax.jit, static_argnames="top_k")
def truncated(quality, congestion, temperature, top_k):
    game = Game(quality, congestion, temperature)
    found = solve_truncated(game, top_k)
    return found, truncated_response(game, found.load, top_k)


def test_truncated_response_fixed_point_and_cycle():
    quality = np.array([3.0, 2.0, 0.0, 0.0])
    still, answer = truncated(quality, 1.0, 1.0, 2)
    full = solve_equilibrium(Game(quality, 1.0)).load
    assert int(still.status) == Status.CONVERGED and int(still.period) == 0
    np.testing.assert_allclose(answer, still.load, atol=1e-9)
    assert float(still.bound) == pytest.approx(2 * 0.5 / (1 - 0.5))
    assert np.abs(np.asarray(full) - still.load).sum() <= still.bound

    around = truncated(np.array([0.1, 0.0, -40.0, -40.0]), 5.0, 1.0, 1)[0]
    assert int(around.status) == Status.CYCLE and int(around.period) == 2
    assert np.isinf(around.bound)
    bad = truncated(quality, 1.0, -1.0, 2)[0]
    assert int(bad.status) == Status.BAD_INPUT


def test_logarithm_to_two_units_in_the_last_place():
    rng = np.random.default_rng(0)
    x = np.concatenate([np.exp(rng.uniform(-700, 700, 20000)), 1 + rng.normal(0, 1e-3, 20000)])
    exact = np.log(x.astype(np.longdouble))
    away = np.abs(np.asarray(jax.jit(logarithm)(x)) - exact)
    assert (away <= 2 * np.spacing(np.abs(exact).astype(float))).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_wright_omega_against_scipy(dtype):
    z = np.linspace(-80, 2000, 40001).astype(dtype)
    expected = wrightomega(z.astype(np.float64)).real
    rounding = 4 * np.finfo(dtype).eps * (1 + np.abs(z))
    assert (np.abs(np.asarray(jax.jit(wright_omega)(z)) / expected - 1) <= rounding).all()


@pytest.mark.parametrize("size", [1, 8, 12])
def test_elimination_against_numpy(size):
    rng = np.random.default_rng(size)
    coupling = rng.uniform(0, 1, (size, size))
    row_sum, right = rng.uniform(1e-6, 1, size), rng.normal(size=size)
    off = coupling * (1 - np.eye(size))
    expected = np.linalg.solve(np.diag(row_sum + off.sum(-1)) - off, right)
    got = jax.jit(eliminate)(coupling, row_sum, right)
    np.testing.assert_allclose(got, expected, rtol=1e-8)
