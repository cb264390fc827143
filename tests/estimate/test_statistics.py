"""Quality, load, null and scope from per-text sums, against the tokens themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from mfgjax.estimate import (
    estimate_dispersion,
    estimate_load,
    estimate_mean_quality,
    fit_congestion,
    null_congestion,
)
from mfgjax.estimate.congestion.diagnostics import (
    critical_congestion,
    normalized_entropy,
    quality_spread,
    safety_margin,
)
from mfgjax.estimate.inference.weights import resample_weights
from mfgjax.estimate.null.dispersion import normal_hazard

resample = jax.jit(resample_weights, static_argnums=(1, 2))
quality_of, load_of, dispersion_of, null_of = (
    jax.jit(estimate_mean_quality),
    jax.jit(estimate_load),
    jax.jit(estimate_dispersion),
    jax.jit(null_congestion, static_argnums=(1, 2)),
)


def test_resamples_do_not_depend_on_the_chunking():
    key = jax.random.key(7)
    whole = np.asarray(resample(key, 10, 20_000))
    for start in (0, 5, 10, 19_995):
        part = resample(key, 10, 5, start=start)
        np.testing.assert_array_equal(whole[start : start + 5], part)
    np.testing.assert_array_equal(whole.sum(-1), 10)
    other = resample(jax.random.key(8), 10, 20_000)
    assert (whole[:20] != np.asarray(other)[:20]).any()


def test_products_with_weights_keep_full_precision_on_a_gpu():
    """The default precision of a product may be TF32 there; a CPU cannot show it, the program can."""
    weights, count, sums = jnp.ones((3, 4)), jnp.ones(4), jnp.ones((4, 2, 5))
    programs = [
        jax.make_jaxpr(estimate_mean_quality)(weights, count, sums),
        jax.make_jaxpr(estimate_dispersion)(weights, count, sums, sums),
        jax.make_jaxpr(estimate_load)(weights, sums),
    ]
    for program in programs:
        products = [step for step in program.eqns if step.primitive.name == "dot_general"]
        assert products
        for product in products:
            assert set(product.params["precision"]) == {jax.lax.Precision.HIGHEST}


def test_resampled_means_have_the_multinomial_moments():
    weights = np.asarray(resample(jax.random.key(0), 10, 20_000))
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.03)
    covariance = np.cov(weights.T)
    np.testing.assert_allclose(covariance, np.eye(10) - 0.1, atol=0.05)


def test_clusters_are_drawn_whole():
    cluster = np.array([0, 0, 1, 2, 2, 2])
    weights = np.asarray(
        jax.jit(lambda key: resample_weights(key, 6, 50, cluster=cluster))(jax.random.key(0))
    )
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    np.testing.assert_array_equal(weights[:, [0, 2, 3]].sum(-1), 3)


def test_weighted_statistics_equal_repeated_tokens():
    rng = np.random.default_rng(0)
    counts = np.array([3, 5, 2, 4])
    logits = rng.normal(size=(counts.sum(), 2, 6))
    centred = logits - logits.mean(-1, keepdims=True)
    text = np.repeat(np.arange(4), counts)
    chosen = np.argsort(-logits, -1)[..., :2]
    dispatch = np.zeros_like(logits)
    np.put_along_axis(dispatch, chosen, 1.0, -1)
    sums = [
        np.stack([values[text == t].sum(0) for t in range(4)])
        for values in (logits, centred**2, dispatch)
    ]
    logit_sum, square_sum, dispatch_count = sums
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 1]], float)
    tokens = counts.astype(float)
    quality = quality_of(weights, tokens, logit_sum)
    load = load_of(weights, dispatch_count)
    sigma = dispersion_of(weights, tokens, logit_sum, square_sum)
    for row, weight in enumerate(weights):
        index = np.repeat(np.arange(len(text)), weight[text].astype(int))
        np.testing.assert_allclose(quality[row], logits[index].mean(0), rtol=1e-12)
        np.testing.assert_allclose(load[row], dispatch[index].mean(0) / 2, rtol=1e-12)
        pooled = np.sqrt(centred[index].var(0).sum(-1) / 5)
        np.testing.assert_allclose(sigma[row], pooled, rtol=1e-12)


def test_dispersion_ignores_what_all_experts_share():
    """A shift of a token's logits changes no choice; the dispersion of 8 experts is unbiased."""
    rng = np.random.default_rng(1)
    logits = 1.7 * rng.normal(size=(20_000, 1, 8)) + 5 * rng.normal(size=(20_000, 1, 1))
    centred = logits - logits.mean(-1, keepdims=True)
    sums = (values.sum(0)[None] for values in (logits, centred**2))
    sigma = dispersion_of(np.ones((1, 1)), np.array([20_000.0]), *sums)
    np.testing.assert_allclose(sigma, 1.7, rtol=0.01)  # 140,000 degrees of freedom


@pytest.mark.parametrize(
    ("top_k", "experts", "hazard"), [(8, 64, 1.647), (1, 4, 1.27), (1, 2, 0.80)]
)
def test_normal_hazard(top_k, experts, hazard):
    share = top_k / experts
    want = norm.pdf(norm.isf(share)) / share
    hazard_of = jax.jit(normal_hazard, static_argnums=(0, 1, 2))
    assert float(hazard_of(top_k, experts, np.float64)) == pytest.approx(want, rel=1e-12)
    assert want == pytest.approx(hazard, abs=0.005)


def test_null_formula_is_what_unbalanced_top_k_routing_gives():
    """No balancing, no game: the signed fit still lands on gamma_null."""
    rng = np.random.default_rng(0)
    experts, top_k, tokens = 64, 8, 60_000
    quality = 0.2 * rng.normal(size=experts)
    for sigma, tolerance in ((1.65, 3.0), (2.5, 4.0)):
        logits = (quality + sigma * rng.normal(size=(tokens, experts))).astype(np.float32)
        chosen = np.argpartition(-logits, top_k, -1)[:, :top_k]
        load = np.bincount(chosen.ravel(), minlength=experts) / (tokens * top_k)
        fit = fit_congestion(logits.mean(0, dtype=np.float64), load, "kl")
        null = float(null_of(sigma, top_k, experts))
        assert float(fit.congestion) == pytest.approx(null, abs=tolerance)


def test_scope_numbers():
    load = np.array([[0.25] * 4, [1.0, 0, 0, 0]])
    np.testing.assert_allclose(jax.jit(normalized_entropy)(load), [1, 0], atol=1e-12)
    assert float(quality_spread(np.array([1.0, 3.24, 2.0]))) == pytest.approx(2.24)
    critical = critical_congestion(np.array(2.24), 64)
    assert float(critical) == pytest.approx(2.28, abs=0.01)  # the paper's final checkpoint
    assert float(safety_margin(np.array(8.5), np.array(2.24), 64)) == pytest.approx(3.7, abs=0.05)
    with pytest.raises(ValueError, match="top_k"):
        normal_hazard(4, 4)
