"""Derivatives against finite differences, an unrolled solver and jaxopt; every transform."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mfgjax.doctor.self_test import reference_loads
from mfgjax.equilibrium import solve_equilibrium
from mfgjax.game import Game
from mfgjax.game.response import aggregate, best_response
from tests.derivatives import assert_derivatives
from tests.equilibrium.games import COSTS

CLOSE = 1e-9  # two exact derivatives of loads solved to 1e-15


def make(cost="linear", types=3, experts=4, seed=0):
    rng = np.random.default_rng(seed)
    shape = (experts,) if types is None else (types, experts)
    weight = None if types is None else rng.dirichlet(np.ones(types))
    return Game(rng.normal(size=shape), 4.0, 0.8, weight, COSTS[cost])


def free(game):
    """The game's numbers, weights by their logs: perturbed weights still sum to 1."""
    log_weight = None if game.weight is None else jnp.log(game.weight)
    return game.quality, game.congestion, game.temperature, log_weight, game.cost


def rebuild(numbers):
    quality, congestion, temperature, log_weight, cost = numbers
    weight = None if log_weight is None else jax.nn.softmax(log_weight)
    return Game(quality, congestion, temperature, weight, cost)


def test_second_order_in_both_modes_against_finite_differences():
    numbers, unravel = ravel_pytree(free(make("softplus", 2, 3)))
    target = jnp.asarray([1.0, -2.0, 0.5])
    assert_derivatives(lambda n: target @ solve_equilibrium(rebuild(unravel(n))).load, numbers)


@jax.jit
@jax.jacrev
def implicit(numbers):
    return solve_equilibrium(rebuild(numbers)).load


@jax.jit
@jax.jacfwd
def unrolled(numbers):
    at = rebuild(numbers)

    def respond(load, _):
        return load + 0.05 * (aggregate(at, best_response(at, load)) - load), None

    return jax.lax.scan(respond, jnp.full(at.experts, 1 / at.experts), length=1000)[0]


@pytest.mark.parametrize("cost", COSTS)
def test_every_cost_against_an_unrolled_solver(cost):
    numbers = free(make(cost))
    pairs = zip(*map(jax.tree.leaves, (implicit(numbers), unrolled(numbers))), strict=True)
    for got, want in pairs:
        np.testing.assert_allclose(got, want, rtol=0, atol=CLOSE)


@pytest.mark.parametrize(("dtype", "close"), [(np.float64, 1e-9), (np.float32, 0.02)])
def test_derivatives_at_congestion_1e5(dtype, close):
    """A dense solve in numpy at the same loads; the loads move 1e5 times less than the logits."""
    quality = np.random.default_rng(1).normal(0, 2, (5, 6)).astype(dtype)
    congestion = dtype(1e5)
    target = np.linspace(-1, 1, 6).astype(dtype)
    load = reference_loads(quality.astype(np.float64), np.full(5, 1e5))
    matrix = np.eye(6) * load[:, None] - load[:, :, None] * load[:, None, :]
    change = np.linalg.solve(np.eye(6) + 1e5 * matrix, matrix)
    of_quality = np.einsum("i,bij->bj", target, change)
    of_congestion = -(of_quality * load).sum(-1)

    @jax.jit
    @jax.vmap
    def gradient(q):
        value = lambda q, g: target @ solve_equilibrium(Game(q, g)).load  # noqa: E731
        return jax.grad(value, argnums=(0, 1))(q, congestion)

    for got, want in zip(gradient(quality), (of_quality, of_congestion), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=close * np.abs(want).max())


def test_against_jaxopt_implicit_differentiation():
    game = make(types=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import jaxopt

    def peer(numbers):
        respond = lambda load, n: 0.5 * load + 0.5 * best_response(rebuild(n), load)  # noqa: E731
        solver = jaxopt.FixedPointIteration(respond, maxiter=500, tol=1e-14, implicit_diff=True)
        return solver.run(jnp.full(4, 0.25), numbers).params

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = jax.jit(jax.jacrev(peer))(free(game))
    got = implicit(free(game))
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-8)


def test_gradient_of_a_batch_is_that_of_each_and_stays_finite_beside_a_failure():
    rng = np.random.default_rng(2)
    quality = rng.normal(size=(4, 6))
    quality[2, 0] = np.nan

    @jax.jit
    @jax.vmap
    def gradient(q, congestion):
        return jax.grad(lambda q: (solve_equilibrium(Game(q, congestion)).load ** 2).sum())(q)

    congestion = np.asarray([0.1, 1.0, 10.0, 100.0])
    batch = gradient(quality, congestion)
    assert np.isnan(batch[2]).all()
    others = gradient(quality[[3, 2, 1, 3]], congestion[[3, 2, 1, 3]])
    np.testing.assert_allclose(batch[3:0:-2], others[:3:2], rtol=0, atol=CLOSE)
    assert np.isfinite(np.delete(batch, 2, axis=0)).all()
    step = np.array([1e-5, 0, 0, 0, 0, 0])
    solve = jax.jit(jax.vmap(lambda q, g: (solve_equilibrium(Game(q, g)).load ** 2).sum()))
    ends = solve(quality + step, congestion), solve(quality - step, congestion)
    np.testing.assert_allclose(batch[:, 0], (ends[0] - ends[1]) / 2e-5, atol=1e-8)


def test_derivative_under_sharding():
    """Two devices, forced in a process of their own, give the gradient of one; `shard_map` too."""
    flags = "--xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("sharded_gradient.py")],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["devices"] == 2
    np.testing.assert_allclose(got["sharded"], got["alone"], rtol=0, atol=CLOSE)
    np.testing.assert_allclose(got["mapped"], got["typed_alone"], rtol=0, atol=CLOSE)
    assert "('game',) are explicit" in got["refusal"]
