"""The game at the door: bad arguments are named; batches are completed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.game import Game, Power
from mfgjax.game.response import aggregate, best_response, truncated_response

EVEN = np.array([0.5, 0.5])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("quality", {"quality": np.array([1.0, np.nan])}),
        ("quality", {"quality": np.float64(1.0)}),
        ("quality", {"quality": np.zeros(2), "weight": EVEN}),
        ("congestion", {"congestion": np.inf}),
        ("congestion", {"congestion": np.zeros(3)}),
        ("temperature", {"temperature": 0.0}),
        ("temperature", {"temperature": -1.0}),
        ("weight", {"quality": np.zeros((2, 3)), "weight": np.array([0.5, 0.4])}),
        ("weight", {"quality": np.zeros((2, 3)), "weight": np.array([1.5, -0.5])}),
        ("weight", {"quality": np.zeros((2, 3)), "weight": np.ones(3) / 3}),
        ("exponent", {"cost": "negative exponent"}),
    ],
)
def test_bad_arguments_are_named(name, arguments):
    if arguments.get("cost") == "negative exponent":
        arguments = {"cost": Power(-1.0)}
    with pytest.raises(ValueError, match=name):
        Game(**{"quality": np.zeros(2), "congestion": 1.0, **arguments})


def test_first_bad_value_of_a_batch_is_located():
    quality = np.zeros((3, 4))
    quality[2, 1] = np.inf
    with pytest.raises(ValueError, match=r"1 of 12 values are not, the first at \(2, 1\)"):
        Game(quality, 1.0)


def test_parameters_are_repeated_along_the_batch():
    game = Game(jnp.zeros((5, 2, 3)), 1.0, 0.5, EVEN, Power(2.0))
    shapes = [leaf.shape for leaf in jax.tree.leaves(game)]
    assert shapes == [(5, 2, 3), (5,), (5,), (5, 2), (5,)]
    assert (game.experts, game.types) == (3, 2)


def test_dtype_follows_quality():
    game = Game(np.zeros(3, np.float32), 1.0, 0.5)
    assert {leaf.dtype for leaf in jax.tree.leaves(game)} == {np.dtype(np.float32)}
    assert Game(np.array([1, 2]), 1).quality.dtype == np.float64


def test_values_are_not_checked_inside_jit():
    jax.jit(lambda t: Game(jnp.zeros(2), 1.0, t).temperature)(-1.0)


def test_responses_by_hand():
    game = Game(np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]]), 2.0, 0.5, np.array([0.25, 0.75]))
    load = np.array([0.5, 0.3, 0.2])
    logits = (np.asarray(game.quality) - 2 * load) / 0.5
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    got = best_response(game, load)
    np.testing.assert_allclose(got, expected, rtol=1e-14)
    np.testing.assert_allclose(aggregate(game, got), [0.25, 0.75] @ expected, rtol=1e-14)
    top = np.asarray(truncated_response(game, load, 1))
    np.testing.assert_array_equal(top, [[0, 0, 1], [0, 0, 1]])
    two = np.asarray(truncated_response(game, load, 2))
    np.testing.assert_allclose(two[0], expected[0] * [1, 0, 1] / expected[0][[0, 2]].sum())
    with pytest.raises(ValueError, match="top_k"):
        truncated_response(game, load, 4)
