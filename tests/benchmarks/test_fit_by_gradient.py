"""Gradient descent through the equilibrium recovers what made the loads."""

import jax
import numpy as np

from benchmarks.fit_by_gradient import draw, fit


def test_congestion_and_temperature_are_recovered():
    game, load = draw(8, 16, seed=0)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found, last = jax.jit(jax.vmap(fit))(game.quality, load)
    np.testing.assert_allclose(np.exp(found.log_congestion), game.congestion, rtol=1e-4)
    np.testing.assert_allclose(np.exp(found.log_temperature), game.temperature, rtol=1e-4)
    assert last.max() < 1e-12
