"""The corrected congestion and its interval, against roots that scipy finds."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from mfgjax.estimate import fit_congestion
from mfgjax.estimate.inference.corrected import fit_corrected, score_interval
from mfgjax.estimate.inference.weights import jackknife_groups, leave_out_weights

TEXTS, TOKENS, EXPERTS, TOP_K = 12, 30, 8, 2
WITHOUT = leave_out_weights(jackknife_groups(TEXTS), np.float64)
FLOAT32 = 1e-2
"""Of a corrected congestion with 64 experts. An uncentred score was off by 0.2, or found no root."""


def means(weights, sums):
    """Of all texts, and with each left out."""
    parts = np.concatenate([np.ones((1, TEXTS)), weights]) @ sums
    return parts[:1], parts[1:, None]


def test_corrected_fit_is_the_root_and_the_interval_its_inversion():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(TEXTS, TOKENS, EXPERTS)) + 0.5 * rng.normal(size=EXPERTS)
    chosen = logits >= np.sort(logits, axis=-1)[..., -TOP_K, None]
    quality, quality_without = means(WITHOUT, logits.mean(1))
    quality, quality_without = quality / TEXTS, quality_without / (TEXTS - 1)
    load, load_without = (c / c.sum(-1, keepdims=True) for c in means(WITHOUT, chosen.sum(1)))
    start = fit_congestion(quality, load, "kl").congestion
    fit = fit_corrected(start, quality, load, quality_without, load_without)

    def pseudo(congestion):
        def score(q, mu):
            logits = q - congestion * mu
            phi = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            return (mu * (mu - phi)).sum(-1)

        rest = score(quality_without[:, 0], load_without[:, 0])
        return TEXTS * score(quality[0], load[0]) - (TEXTS - 1) * rest

    root = brentq(lambda g: pseudo(g).mean(), -40, 80)
    assert float(fit.congestion[0]) == pytest.approx(root, abs=1e-6)
    assert root > float(start[0])  # noise in the load had pulled it down
    reach = stats.t.ppf(0.95, TEXTS - 1)

    def excess(congestion):
        values = pseudo(congestion)
        return abs(values.mean()) / (values.std(ddof=1) / np.sqrt(TEXTS)) - reach

    lower, upper = score_interval(fit, 0.9)
    # Linearised in gamma: the exact inversion differs a little where the softmax bends.
    width = float(upper[0] - lower[0])
    assert float(lower[0]) == pytest.approx(brentq(excess, root - 60, root), abs=0.03 * width)
    assert float(upper[0]) == pytest.approx(brentq(excess, root, root + 60), abs=0.03 * width)


def test_noise_alone_gives_no_congestion_and_an_unbounded_interval():
    """A uniform router: all that its load shows is noise."""
    rng = np.random.default_rng(3)
    counts = rng.multinomial(40, np.full(EXPERTS, 1 / EXPERTS), size=TEXTS).astype(float)
    load, rest = (c / c.sum(-1, keepdims=True) for c in means(WITHOUT, counts))
    noise = 0.01 * rng.normal(size=(1, EXPERTS))
    start = fit_congestion(noise, load, "kl").congestion
    fit = fit_corrected(start, noise, load, np.broadcast_to(noise, rest.shape), rest)
    lower, upper = score_interval(fit)
    assert np.isneginf(lower).all() and np.isposinf(upper).all()


@pytest.mark.parametrize("seed", [2, 3, 5])
def test_float32_costs_the_corrected_fit_no_digit_that_shows(seed):
    """A load within a few percent of uniform, over 64 experts: against the same sums in float64."""
    experts, texts = 64, 40
    rng = np.random.default_rng(seed)
    quality = 0.2 * rng.standard_normal(experts) + 0.05 * rng.standard_normal((texts, experts))
    counts = np.round(2000 * np.exp(0.02 * rng.standard_normal(experts)))
    counts = counts + rng.integers(-40, 40, (texts, experts))
    keep = np.concatenate([np.ones((1, texts)), 1 - np.eye(texts)])
    sums = keep @ counts
    load, value = sums / sums.sum(-1, keepdims=True), keep @ quality / keep.sum(-1, keepdims=True)
    start = fit_congestion(value[0], load[0], "kl").congestion

    def corrected(dtype):
        short = sums.astype(dtype)
        load = short / short.sum(-1, keepdims=True)
        q = value.astype(dtype)
        return fit_corrected(start.astype(dtype), q[0], load[0], q[1:], load[1:]).congestion

    narrow, wide = corrected(np.float32), corrected(np.float64)
    assert narrow.dtype == jnp.float32
    assert float(narrow) == pytest.approx(float(wide), abs=FLOAT32)
