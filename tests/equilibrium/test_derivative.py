"""Derivatives against finite differences, an unrolled solver and jaxopt; every transform."""

import json
import os
import subprocess
import sys
import warnings
from functools import partial
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
from tests.equilibrium.games import COSTS, PRICES, slow_equilibrium

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
@partial(jax.jacrev, has_aux=True)
def implicit(numbers):
    load = solve_equilibrium(rebuild(numbers)).load
    return load, load


def unrolled(price, numbers, types, experts):
    """Loads after many damped responses, and their derivative, by numpy and complex steps."""
    tiny = 1e-30
    moved = numbers + tiny * 1j * np.eye(len(numbers))
    quality, rest = np.split(moved, [types * experts], axis=1)
    quality = quality.reshape(-1, types, experts)
    congestion, temperature = rest[:, 0, None, None], rest[:, 1, None, None]
    weight, cost = np.exp(rest[:, 2 : 2 + types]), rest[:, 2 + types :].T[:, :, None]
    weight /= weight.sum(-1, keepdims=True)
    load = np.full((len(moved), experts), 1 / experts, complex)
    for _ in range(1000):
        net = (quality - congestion * price(load, *cost)[:, None]) / temperature
        answer = np.exp(net)
        answer /= answer.sum(-1, keepdims=True)
        load += 0.05 * (np.einsum("pk,pki->pi", weight, answer) - load)
    return load[0].real, load.imag.T / tiny


@pytest.mark.parametrize("cost", COSTS)
def test_every_cost_against_an_unrolled_solver(cost):
    """The loads too."""
    game = make(cost)
    derivative, load = implicit(free(game))
    numbers = np.asarray(ravel_pytree(free(game))[0])
    same, want = unrolled(PRICES[cost], numbers, game.types, game.experts)
    np.testing.assert_allclose(load, same, rtol=0, atol=CLOSE)
    got = [np.reshape(leaf, (game.experts, -1)) for leaf in jax.tree.leaves(derivative)]
    np.testing.assert_allclose(np.concatenate(got, 1), want, rtol=0, atol=CLOSE)


@jax.jit
@jax.vmap
def gradient(quality, congestion):
    """Value of a target, and its gradient in all the game's numbers; one type."""

    def value(quality, congestion, temperature):
        load = solve_equilibrium(Game(quality, congestion, temperature)).load
        return jnp.linspace(-1, 1, 6, dtype=load.dtype) @ load

    one = jnp.ones_like(congestion)
    return jax.value_and_grad(value, argnums=(0, 1, 2))(quality, congestion, one)


@pytest.mark.parametrize(("dtype", "close"), [(np.float64, 1e-9), (np.float32, 0.02)])
def test_derivatives_at_congestion_1e5(dtype, close):
    """A dense solve in numpy at the same loads; the loads move 1e5 times less than the logits."""
    quality = np.random.default_rng(1).normal(0, 2, (5, 6)).astype(dtype)
    congestion = np.full(5, 1e5, dtype)
    load = reference_loads(quality.astype(np.float64), np.full(5, 1e5))
    matrix = np.eye(6) * load[:, None] - load[:, :, None] * load[:, None, :]
    change = np.linalg.solve(np.eye(6) + 1e5 * matrix, matrix)
    of_quality = np.einsum("i,bij->bj", np.linspace(-1, 1, 6), change)
    of_congestion = -(of_quality * load).sum(-1)
    _, (*got, of_temperature) = gradient(quality, congestion)
    for one, want in zip(got, (of_quality, of_congestion), strict=True):
        np.testing.assert_allclose(one, want, rtol=0, atol=close * np.abs(want).max())
    # All numbers doubled leave the loads alone.
    parts = np.abs(of_quality * quality).sum(-1) + 1e5 * np.abs(of_congestion)
    want = -((of_quality * quality).sum(-1) + 1e5 * of_congestion)
    away = np.abs(np.asarray(of_temperature, np.float64) - want)
    np.testing.assert_array_less(away, close * parts)


def test_against_jaxopt_implicit_differentiation():
    game = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import jaxopt

    def peer(numbers):
        def respond(load, numbers):
            game = rebuild(numbers)
            return 0.5 * load + 0.5 * aggregate(game, best_response(game, load))

        solver = jaxopt.FixedPointIteration(respond, maxiter=500, tol=1e-14, implicit_diff=True)
        return solver.run(jnp.full(4, 0.25), numbers).params

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = jax.jit(jax.jacrev(peer))(free(game))
    got, _ = implicit(free(game))
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-8)


def test_gradient_of_a_batch_is_that_of_each_and_stays_finite_beside_a_failure():
    quality = np.random.default_rng(2).normal(size=(5, 6))
    quality[2, 0] = np.nan
    congestion = np.asarray([0.1, 1.0, 10.0, 100.0, 3.0])
    batch = gradient(quality, congestion)[1][0]
    assert np.isnan(batch[2]).all()
    mixed = [3, 2, 1, 3, 0]
    others = gradient(quality[mixed], congestion[mixed])[1][0]
    np.testing.assert_allclose(batch[3:0:-2], others[:3:2], rtol=0, atol=CLOSE)
    assert np.isfinite(np.delete(batch, 2, axis=0)).all()
    step = np.array([1e-5, 0, 0, 0, 0, 0])
    ends = [gradient(quality + s * step, congestion)[0] for s in (1, -1)]
    np.testing.assert_allclose(batch[:, 0], (ends[0] - ends[1]) / 2e-5, atol=1e-8)


def gradient_of_first_loads(quality, mixes, weight):
    """Of the sum over games of the first load: numpy alone, congestion 3; type k has logits `mixes[k] @ q`."""
    found = []
    logits = np.einsum("kij,bj->bki", mixes, quality)
    for rows in slow_equilibrium(logits, np.full(len(logits), 3.0), weight):
        matrices = np.eye(rows.shape[1]) * rows[:, None] - rows[:, :, None] * rows[:, None, :]
        push = np.einsum("k,kij,kjl->il", weight, matrices, mixes)
        stiff = np.eye(rows.shape[1]) + 3 * np.einsum("k,kij->ij", weight, matrices)
        found.append(np.linalg.solve(stiff, push)[0])
    return np.array(found)


def test_derivative_under_sharding():
    """Two devices, forced in a process of their own, give the gradient of numpy; `shard_map` too."""
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
    quality, same = np.array(got["quality"]), np.eye(6)
    alone = gradient_of_first_loads(quality, same[None], np.ones(1))
    np.testing.assert_allclose(got["sharded"], alone, rtol=0, atol=CLOSE)
    typed = gradient_of_first_loads(quality, np.stack([same, same[::-1]]), np.array([0.3, 0.7]))
    np.testing.assert_allclose(got["mapped"], typed, rtol=0, atol=CLOSE)
    assert "('game',) are explicit" in got["refusal"]
