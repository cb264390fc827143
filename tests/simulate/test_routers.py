"""The simulators draw what they say, and the small coverage study covers."""

import jax
import jax.numpy as jnp
import numpy as np

from mfgjax.estimate import (
    congestion_estimator,
    fit_congestion,
    leave_one_out_weights,
    null_congestion,
    unit_weights,
)
from mfgjax.estimate.inference.interval import jackknife_interval
from mfgjax.estimate.null.dispersion import weighted_null
from mfgjax.simulate import draw_truth, simulate_texts
from mfgjax.simulate.top_k_router import balance_by_bias, choose_experts, draw_logits


def simulate(seed, truth, quality_noise=0.0, dispersion=1.0):
    """In float32 and of the shape of a `SimulatedRun`, on the host: one program for both."""
    truth = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), truth)
    texts = simulate_texts(
        jax.random.key(seed),
        truth,
        texts=100,
        tokens=200,
        top_k=4,
        quality_noise=quality_noise,
        dispersion=dispersion,
    )
    return jax.device_get(texts)


def test_truth_is_an_exact_equilibrium_and_texts_have_its_load():
    truth = draw_truth(jax.random.key(0), jnp.asarray([5.0, 30.0]), 16)
    fit = fit_congestion(truth.quality, truth.load, "kl")
    np.testing.assert_allclose(fit.congestion, truth.congestion, rtol=1e-8)
    texts = simulate(1, truth, quality_noise=0.05)
    np.testing.assert_array_equal(texts.dispatch_count.sum(-1), 800)
    load = texts.dispatch_count.sum(0) / texts.dispatch_count.sum((0, 2))[:, None]
    np.testing.assert_allclose(load, truth.load, atol=0.0055)  # three standard errors
    error = texts.logit_sum.sum(0) / texts.token_count.sum() - np.asarray(truth.quality)
    assert 0.03 < error.std() < 0.08


def test_coverage_in_small():
    """150 replicates ride on the layer axis; benchmarks/studies/coverage.py is the study."""
    one = draw_truth(jax.random.key(2), jnp.asarray([20.0], jnp.float32), 16)
    truth = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (150, *leaf.shape[1:])), one)
    texts = simulate_texts(
        jax.random.key(3), truth, texts=40, tokens=100, top_k=4, concentration=2000.0
    )
    fit = congestion_estimator("kl")
    estimate = fit(texts, unit_weights(40))[0][0]
    lower, upper = jackknife_interval(estimate, fit(texts, leave_one_out_weights(40))[0])
    covered = float(((lower <= 20) & (upper >= 20)).mean())
    # Four Monte Carlo standard errors of 150 replicates at 95%.
    assert 0.88 <= covered <= 1.0


def test_bias_rule_evens_the_load():
    quality = 0.3 * jax.random.normal(jax.random.key(4), (16,))
    logits = draw_logits(jax.random.key(5), quality, 1.5, 4000)
    bias = balance_by_bias(logits, 4, steps=100)
    spread = []
    for extra in (None, bias):
        chosen = choose_experts(logits, 4, extra)
        spread.append(float(jnp.zeros(16).at[chosen.ravel()].add(1.0).std()))
    assert spread[1] < 0.1 * spread[0]


def test_simulated_texts_have_the_dispersion_asked_for():
    """sigma = 2 of the token logits, and M (sigma / h - 1)."""
    truth = draw_truth(jax.random.key(6), jnp.asarray([20.0, 20.0]), 16)
    found = weighted_null(simulate(7, truth, dispersion=2.0), unit_weights(100), 4)
    want = float(null_congestion(jnp.asarray(2.0), 4, 16))
    assert np.abs(np.asarray(found[0]) - want).max() < 0.6
