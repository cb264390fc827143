"""Slope, stored bias and cost against known truths."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.estimate import fit_congestion, null_congestion
from mfgjax.price import compare_stored_bias, estimate_price_slope, price_cost, reveal_price
from mfgjax.price.slope import fit_price_slope, resample_price_slope
from mfgjax.price.stored_bias import Verdict
from mfgjax.trace import TraceError
from mfgjax.trace.statistics import statistics_of

from .conftest import EXPERTS, TOP_K, make_tokens

DOSE = 12.0


@pytest.fixture(scope="module")
def at_rest():
    """The fixed point of the leaky price on a population, and the population's load."""
    rng = np.random.default_rng(2)
    logits = 0.5 * rng.normal(size=EXPERTS) + rng.normal(size=(100_000, EXPERTS))
    bias = np.zeros(EXPERTS)
    for _ in range(60):
        chosen = np.argpartition(-(logits + bias), TOP_K)[:, :TOP_K]
        load = np.bincount(chosen.ravel(), minlength=EXPERTS) / chosen.size
        bias += 0.3 * (-DOSE * (load - 1 / EXPERTS) - bias)
    return bias, logits.reshape(500, 200, EXPERTS), chosen.reshape(500, 200, TOP_K)


def counts(chosen):
    return np.stack([np.bincount(text.ravel(), minlength=EXPERTS) for text in chosen])[:, None]


def test_slope_of_a_known_load_is_the_dose(at_rest):
    bias, _, chosen = at_rest
    found = fit_price_slope(
        -bias[None], np.zeros((1, EXPERTS)), np.ones((1, EXPERTS), bool), counts(chosen)
    )
    assert abs(found.congestion[0] - DOSE) < 0.05 * DOSE
    assert found.explained[0] > 0.99
    np.testing.assert_allclose(found.uncorrected * 1.0, found.congestion, rtol=0.01)


def test_the_mean_field_estimate_is_the_dose_plus_the_dispersion_null():
    """docs/theory.md: independent normal logits of one spread, near the uniform load; to first order."""
    rng = np.random.default_rng(4)
    experts, top_k, spread, dose = 16, 4, 1.9, 20.0
    quality = 0.3 * rng.normal(size=experts)
    logits = quality + spread * rng.normal(size=(60_000, experts))
    bias = np.zeros(experts)
    for _ in range(25):
        chosen = np.argpartition(-(logits + bias), top_k)[:, :top_k]
        load = np.bincount(chosen.ravel(), minlength=experts) / chosen.size
        bias += 0.5 * (-dose * (load - 1 / experts) - bias)
    fit = fit_congestion(jnp.asarray(logits.mean(0)), jnp.asarray(load), "kl")
    null = float(null_congestion(jnp.asarray(spread), top_k, experts))
    assert null > 5  # not to be had without it
    assert abs(float(fit.congestion) - null - dose) < 0.1 * dose


def test_the_correction_takes_off_the_noise_of_the_load(at_rest):
    """Over draws of 30 short texts: least squares is pulled to 0, the corrected slope is not."""
    bias, _, chosen = at_rest
    rng = np.random.default_rng(0)
    many = counts(chosen[:, :20])
    fits = [
        fit_price_slope(
            -bias[None],
            np.zeros((1, EXPERTS)),
            np.ones((1, EXPERTS), bool),
            many[rng.integers(0, 500, 30)],
        )
        for _ in range(400)
    ]
    raw = np.mean([f.uncorrected[0] for f in fits])
    corrected = np.median([f.congestion[0] for f in fits])
    assert raw < 0.96 * DOSE
    assert abs(corrected - DOSE) < 0.04 * DOSE
    covered = np.mean([f.interval[0, 0] <= DOSE <= f.interval[0, 1] for f in fits])
    assert 0.91 < covered < 0.98  # 400 draws: 95% give or take 2.2, and the dose is met within 1%


def test_price_known_within_bounds_only_widens_the_interval(at_rest):
    bias, _, chosen = at_rest
    used, many = np.ones((1, EXPERTS), bool), counts(chosen[:50])
    sharp = fit_price_slope(-bias[None], np.zeros((1, EXPERTS)), used, many)
    half = np.full((1, EXPERTS), 0.01)
    wide = fit_price_slope(-bias[None], half, used, many)
    np.testing.assert_allclose(wide.interval, sharp.interval + [-1, 1] * wide.price_error)
    rng = np.random.default_rng(1)
    for _ in range(20):
        moved = -bias[None] + 0.01 * rng.choice([-1, 1], (1, EXPERTS))
        error = fit_price_slope(moved, half, used, many).congestion - sharp.congestion
        assert abs(error[0]) <= wide.price_error[0] * (1 + 1e-9)


def test_resamples_spread_like_the_interval(at_rest):
    bias, _, chosen = at_rest
    used, many = np.ones((1, EXPERTS), bool), counts(chosen[:50])
    fit = fit_price_slope(-bias[None], np.zeros((1, EXPERTS)), used, many)
    weights = np.random.default_rng(0).multinomial(50, np.full(50, 1 / 50), 400)
    found = resample_price_slope(fit, -bias[None], used, many, weights)
    np.testing.assert_allclose(found.mean(0), fit.congestion)
    width = np.ptp(fit.interval[0])
    assert 0.8 < np.ptp(np.quantile(found, [0.025, 0.975])) / width < 1.3


def test_tokens_and_statistics_give_one_slope(priced):
    whole = estimate_price_slope(priced)
    again = estimate_price_slope(statistics_of(priced, choice_blocks=2))
    np.testing.assert_allclose(again.congestion, whole.congestion, rtol=1e-4)
    np.testing.assert_allclose(again.interval, whole.interval, rtol=1e-3)
    by_document = estimate_price_slope(priced, documents=[0, 0, 1, 1, 2, 2, 3, 3])
    assert by_document.groups == 4
    with pytest.raises(ValueError, match="at least 3"):
        estimate_price_slope(priced, documents=[0] * 8)


def test_dead_experts_are_left_out_of_the_line(at_rest):
    bias, logits, _ = at_rest
    pushed = bias.copy()
    pushed[4] = -100
    trace = dataclasses.replace(
        make_tokens(pushed),
        logits=logits[:8].reshape(-1, 1, EXPERTS).astype(np.float32),
        choices=np.argsort(-(logits[:8] + pushed), axis=-1)[..., :TOP_K].reshape(-1, 1, TOP_K),
        text=np.repeat(np.arange(8, dtype=np.int32), 200),
    )
    found = estimate_price_slope(trace)
    assert found.experts.tolist() == [EXPERTS - 1]
    assert abs(found.congestion[0]) < 100


def test_a_router_without_a_price_has_slope_zero():
    found = estimate_price_slope(make_tokens(np.zeros(EXPERTS), seed=3))
    low, high = found.interval[0]
    assert low <= 0 <= high


def test_stored_bias(priced, bias):
    revealed = reveal_price(priced)
    stored = priced.selection_bias.astype(float)

    def verdict(values):
        return compare_stored_bias(revealed, values, priced)[0]

    assert verdict(stored).verdict is Verdict.APPLIED and verdict(stored).share == 0
    assert np.isnan(compare_stored_bias(revealed, stored)[0].share)
    wrong = np.argsort(-(priced.logits[:, 0] - stored[0]), axis=-1)[
        :, :TOP_K
    ]  # of z - b, one by one
    same = (np.sort(wrong, -1) == np.sort(priced.choices[:, 0].astype(int), -1)).all(-1)
    assert verdict(-stored).share == pytest.approx(1 - same.mean(), abs=2e-3)  # but for rounding
    assert verdict(stored + 3).excess == 0  # a constant is immaterial
    stale = verdict(0.8 * stored)
    assert stale.verdict is Verdict.OTHER and stale.excess > 0.01
    assert abs(stale.scale - 1.25) < 0.02
    assert verdict(-stored).verdict is Verdict.REVERSED
    with pytest.raises(TraceError, match="another model"):
        compare_stored_bias(revealed, stored[:, :-1])
    with pytest.raises(TraceError, match="not finite"):
        compare_stored_bias(revealed, np.where(stored > 0.3, np.nan, stored))
    unpriced = dataclasses.replace(make_tokens(np.zeros(EXPERTS)), selection_bias=stored)
    found = compare_stored_bias(reveal_price(unpriced), stored)[0]
    assert found.verdict is Verdict.NEVER_APPLIED
    tiny = compare_stored_bias(reveal_price(unpriced), 1e-6 * stored)[0]
    assert tiny.verdict is Verdict.UNDECIDED


def test_a_cast_to_bfloat16_shows(bias):
    import jax.numpy as jnp

    stored = np.float32(4 * bias + 1)  # steps of bfloat16 there are .008, intervals are .001 wide
    cast = stored.astype(jnp.bfloat16).astype(float)
    trace = make_tokens(cast, tokens=4000)
    found = compare_stored_bias(reveal_price(trace), stored[None].astype(float))[0]
    assert found.verdict is Verdict.ROUNDED


def test_cost_is_certified(priced, bias):
    revealed = reveal_price(priced)
    found = price_cost(priced, revealed, 0)
    score = priced.logits[:, 0].astype(float)
    chosen = np.take_along_axis(score, priced.choices[:, 0].astype(int), 1).sum(1).mean()
    best = np.sort(score, axis=1)[:, -TOP_K:].sum(1).mean()
    np.testing.assert_allclose(found.cost, best - chosen, rtol=1e-12)
    assert 0 <= found.gap < 1e-4 and found.cost > 0.01
    np.testing.assert_allclose(found.price_spread, bias.std() / found.spread, rtol=0.02)
    # Any other assignment with this load, here by swapping choices of tokens, costs more.
    rng = np.random.default_rng(0)
    swapped = priced.choices[rng.permutation(len(score)), 0].astype(int)
    other = np.take_along_axis(score, swapped, 1).sum(1).mean()
    assert best - other >= found.cost - found.gap
