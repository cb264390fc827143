"""Corrected congestion, the permutation null in closed form, and the excess, on small routers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from mfgjax.estimate import (
    counterfactual_excess,
    dispersion_excess,
    fit_congestion,
    null_congestion,
    permutation_excess,
    unit_weights,
)
from mfgjax.estimate.inference.corrected import fit_corrected, influence_error, score_interval
from mfgjax.estimate.inference.quality import estimate_quality_and_load
from mfgjax.estimate.inference.weights import jackknife_groups, leave_out_weights, resample_weights
from mfgjax.estimate.null.counterfactual import plain_choices, with_plain_choices
from mfgjax.estimate.null.excess import KEEPS
from mfgjax.estimate.null.own_logits import own_logits, permuted_load
from mfgjax.estimate.null.permutation import independent_load, with_bins
from mfgjax.simulate.drawn_tokens import drawn_trace
from mfgjax.simulate.top_k_router import balance_by_bias, choose_experts, draw_logits
from mfgjax.trace import TokenTrace
from mfgjax.trace.statistics import per_text_statistics, statistics_of

TEXTS, TOKENS, EXPERTS, TOP_K = 12, 60, 8, 2
FLOAT32 = 1e-2
"""Of a corrected congestion with 64 experts. An uncentred score was off by 0.2, or found no root."""
TEXT = np.repeat(np.arange(TEXTS, dtype=np.int32), TOKENS)


def make_trace(bias_strength: float, texts=TEXTS, tokens=TOKENS) -> TokenTrace:
    quality = 0.5 * jax.random.normal(jax.random.key(0), (EXPERTS,), jnp.float32)
    spread = jnp.linspace(0.7, 2.0, EXPERTS, dtype=jnp.float32)
    logits = draw_logits(jax.random.key(1), quality, spread, texts * tokens)
    bias = bias_strength * balance_by_bias(logits, TOP_K, steps=60)
    chosen = np.asarray(choose_experts(logits, TOP_K, bias))
    return drawn_trace(
        np.asarray(logits)[:, None], chosen[:, None], texts, revision="step0", layers=("gate",)
    )


@pytest.fixture(scope="module")
def trace():
    return make_trace(0.0)


@pytest.fixture(scope="module")
def binned(trace):
    sums = statistics_of(trace).statistics
    return with_bins(sums, jnp.asarray(trace.logits), jnp.asarray(trace.text), TOP_K)


def test_independent_load_is_what_shuffling_gives(trace, binned):
    """Against NumPy draws from the weighted logits of each expert; so for the weights of shuffles."""
    weights = np.stack([np.ones(TEXTS), np.r_[3, 0, 2, np.ones(TEXTS - 4), 0]]).astype(np.float32)
    got = np.asarray(independent_load(jnp.asarray(weights), binned, TOP_K))[:, 0]
    rng, draws = np.random.default_rng(0), 200_000
    own = np.asarray(own_logits(jnp.asarray(trace.logits)))[:, 0]
    for row, weight in enumerate(weights):
        share = weight[TEXT] / weight[TEXT].sum()
        columns = [rng.choice(own[:, i], draws, p=share) for i in range(EXPERTS)]
        chosen = np.argsort(-np.stack(columns, -1), axis=-1)[:, :TOP_K]
        want = np.bincount(chosen.ravel(), minlength=EXPERTS) / chosen.size
        error = np.sqrt(want * (1 - want) / draws)
        assert (np.abs(got[row] - want) < 5 * error + 1e-3).all()
        keys = jax.random.split(jax.random.key(row), 60)
        shuffle = jax.jit(
            jax.vmap(lambda k, w: permuted_load(k, jnp.asarray(trace.logits), TOP_K, w), (0, None))
        )
        load = np.asarray(shuffle(keys, jnp.asarray(weight[TEXT])))[:, 0]
        error = load.std(0) / np.sqrt(60)
        assert (np.abs(load.mean(0) - want) < 5 * error + 1e-3).all()


def test_without_balancing_the_null_is_the_estimate():
    """Independent experts of several kinds, one a layer: half a percent of M is left of the excess.

    Also with a shift common to the experts of a token (a shuffle of raw logits is off by 3 to 16 then)
    and with logits centred by the router (a shuffle of centred ones is off by -2.4 to 1.8).
    """
    experts, tokens = 16, 80_000
    rng = np.random.default_rng(0)
    quality = 0.3 * rng.standard_normal(experts)
    spread = 2 * np.exp(rng.uniform(-0.7, 0.7, experts))
    normal = rng.standard_normal((tokens, experts))
    skewed = rng.standard_exponential((tokens, experts)) - 1
    shift = 2 * rng.standard_normal((tokens, 1))
    noise = [2 * normal, spread * normal, 2 * skewed, -spread * skewed]
    noise += [2 * normal + shift, spread * normal + shift]
    noise += [spread * normal - (spread * normal).mean(-1, keepdims=True)]
    logits = np.stack(noise, 1).astype(np.float32) + quality.astype(np.float32)
    chosen = np.argpartition(-logits, TOP_K - 1, axis=-1)[..., :TOP_K].astype(np.int32)
    text = jnp.zeros(tokens, jnp.int32)
    sums = per_text_statistics(jnp.asarray(logits), jnp.asarray(chosen), text, 1)
    weights = unit_weights(1)
    null = independent_load(weights, with_bins(sums, jnp.asarray(logits), text, TOP_K), TOP_K)
    mean, load = estimate_quality_and_load(sums, weights)
    fits = fit_congestion(jnp.stack([mean[0]] * 2), jnp.stack([load[0], null[0]]), "kl")
    excess = np.asarray(fits.congestion[0] - fits.congestion[1])
    assert np.abs(fits.congestion[0]).max() > 8
    np.testing.assert_allclose(excess, 0, atol=0.35)  # sampling error 0.13, bins 0.1


def test_own_logits_know_no_shift():
    """Independent variances come back, from raw, shifted and centred logits, two experts included."""
    rng = np.random.default_rng(1)
    for experts in (2, 3, 8):
        spread = np.linspace(0.5, 2, experts)
        logits = spread * rng.standard_normal((40_000, 1, experts))
        shifted = logits + 3 * rng.standard_normal((40_000, 1, 1))
        centred = logits - logits.mean(-1, keepdims=True)
        found = [np.asarray(own_logits(jnp.asarray(x))) for x in (logits, shifted, centred)]
        want = spread if experts > 2 else np.full(2, np.sqrt((spread**2).mean()))
        for own in found:
            np.testing.assert_allclose(own[:, 0].std(0), want, rtol=0.03)
            np.testing.assert_allclose(own[:, 0].std(0), found[0][:, 0].std(0), rtol=1e-9)
    np.testing.assert_allclose(found[0], logits, atol=0.05)
    assert np.isfinite(own_logits(jnp.ones((5, 1, 4)))).all()


def test_corrected_fit_is_the_root_and_the_interval_its_inversion(binned):
    without = leave_out_weights(jackknife_groups(TEXTS))
    estimate = jax.jit(estimate_quality_and_load)
    quality, load = (leaf[0] for leaf in estimate(binned, unit_weights(TEXTS)))
    quality_without, load_without = estimate(binned, jnp.asarray(without))
    start = fit_congestion(quality, load, "kl").congestion
    wide = [
        leaf.astype(jnp.float64) for leaf in (start, quality, load, quality_without, load_without)
    ]
    for index in (2, 4):  # sums of 1 in float64 too
        wide[index] = wide[index] / wide[index].sum(-1, keepdims=True)
    fit = fit_corrected(*wide)

    def pseudo(congestion):
        def score(q, mu):
            logits = q - congestion * mu
            phi = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            return (mu * (mu - phi)).sum(-1)

        q, mu = np.asarray(wide[1])[0], np.asarray(wide[2])[0]
        rest = score(np.asarray(wide[3])[:, 0], np.asarray(wide[4])[:, 0])
        return TEXTS * score(q, mu) - (TEXTS - 1) * rest

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
    counts = rng.multinomial(40, np.full(EXPERTS, 1 / EXPERTS), size=10).astype(float)
    without = leave_out_weights(jackknife_groups(10), np.float64) @ counts
    load, rest = (c / c.sum(-1, keepdims=True) for c in (counts.sum(0), without))
    noise = 0.01 * rng.normal(size=EXPERTS)
    quality = np.broadcast_to(noise, rest.shape)
    start = fit_congestion(jnp.asarray(noise), jnp.asarray(load), "kl").congestion
    fit = fit_corrected(start, *map(jnp.asarray, (noise, load, quality, rest)))
    lower, upper = score_interval(fit)
    assert np.isneginf(lower) and np.isposinf(upper)


def test_excess_with_and_without_a_selection_bias(trace, binned):
    none = permutation_excess(trace)
    assert not none.excludes_zero[0]
    balanced = permutation_excess(make_trace(0.6))
    assert balanced.excludes_zero[0] and balanced.excess[0] > 10
    assert balanced.null[0] == pytest.approx(none.null[0], abs=1e-3)  # same logits
    # The paired spread is that of resampled texts, up to the second dose of noise.
    weights = resample_weights(jax.random.key(0), TEXTS, 100)
    quality, load = estimate_quality_and_load(binned, weights)
    loads = jnp.stack([load, independent_load(weights, binned, TOP_K)])
    fits = fit_congestion(jnp.stack([quality] * 2), loads, "kl").congestion
    error = (none.excess_interval[1] - none.excess[0]) / stats.t.ppf(0.975, TEXTS - 1)
    # 0.98 here; the spread of 100 draws is itself known to 7%.
    assert float((fits[0] - fits[1]).std()) == pytest.approx(error[0], rel=0.25)


def test_documents_are_left_out_whole(trace):
    """Every text twice, copies in one document: the errors are those of the texts once."""
    twice = dataclasses.replace(
        trace,
        metadata=dataclasses.replace(trace.metadata, text_count=2 * TEXTS),
        logits=np.repeat(trace.logits, 2, axis=0),
        choices=np.repeat(trace.choices, 2, axis=0),
        text=np.repeat(2 * trace.text, 2) + np.tile([0, 1], len(TEXT)).astype(np.int32),
    )
    order = np.argsort(twice.text, kind="stable")
    twice = dataclasses.replace(
        twice, logits=twice.logits[order], choices=twice.choices[order], text=twice.text[order]
    )
    once = permutation_excess(trace)
    labels = [f"document {t // 2}" for t in range(2 * TEXTS)]
    whole = permutation_excess(twice, documents=labels)
    np.testing.assert_allclose(whole.excess_interval, once.excess_interval, rtol=1e-3, atol=1e-2)
    apart = permutation_excess(twice)
    assert np.ptp(apart.excess_interval) < 0.8 * np.ptp(once.excess_interval)
    with pytest.raises(ValueError, match="documents name 5 texts, but there are 24"):
        permutation_excess(twice, documents=labels[:5])
    with pytest.raises(ValueError, match="2 documents give no standard error"):
        jackknife_groups(4, documents=["a", "a", "b", "b"])
    assert np.bincount(jackknife_groups(1000)).tolist() == [10] * 100
    assert float(influence_error(jnp.asarray([[1.0], [2.0], [3.0]]))[0]) == pytest.approx(3**-0.5)


def test_a_router_that_takes_its_own_top_k_has_no_counterfactual_excess(trace):
    """Logits in float16, where neighbours are equal: the choices are still those of plain top-K."""
    far = trace.logits + 64  # where float16 has steps of 1/16; a shift changes no choice
    stored = dataclasses.replace(trace, logits=far.astype(np.float16))
    sorted_logits = np.sort(stored.logits[:, 0], axis=-1)
    tied = sorted_logits[:, -TOP_K] == sorted_logits[:, -TOP_K - 1]
    assert tied.any()  # or the test would say nothing of ties
    own = counterfactual_excess(stored)
    assert own.excess[0] == 0 and own.mean_excess == 0
    np.testing.assert_array_equal(own.null, own.congestion)
    np.testing.assert_array_equal(own.excess_interval, [[0], [0]])


def test_the_counterfactual_null_is_the_estimate_without_the_bias(trace):
    """The same logits with and without a bias: the null of the one is the estimate of the other."""
    plain = counterfactual_excess(trace)
    balanced_trace = make_trace(0.6)
    balanced = counterfactual_excess(balanced_trace)
    np.testing.assert_allclose(balanced.null, plain.congestion, rtol=1e-4)
    lower, upper = balanced.excess_interval
    assert 5 < lower[0] < balanced.excess[0] < upper[0]
    sums = with_plain_choices(
        statistics_of(balanced_trace).statistics,
        balanced_trace.logits,
        balanced_trace.choices.astype(np.int32),
        balanced_trace.text,
    )
    want = statistics_of(trace).statistics.dispatch_count
    np.testing.assert_array_equal(sums.plain_count, want)


def test_three_nulls_one_type(trace):
    """The same congestion three times; the dispersion null against the jackknife in NumPy."""
    found = [f(trace, level=0.9) for f in (dispersion_excess, permutation_excess)]
    found.append(counterfactual_excess(trace, level=0.9))
    assert [one.name for one in found] == list(KEEPS)
    for one in found:
        assert one.level == 0.9 and one.layers == ("gate",)
        np.testing.assert_allclose(one.congestion, found[0].congestion, atol=2e-3)
        np.testing.assert_allclose(one.excess, one.congestion - one.null)
        for ends in (one.congestion_interval, one.null_interval, one.excess_interval):
            assert ends[0].shape == (1,) and (ends[0] <= ends[1]).all()
    sums = statistics_of(trace)
    # A trace in statistics form gives the same.
    again = dispersion_excess(sums, level=0.9)
    np.testing.assert_allclose(again.excess_interval, found[0].excess_interval, rtol=1e-5)

    def null(keep):
        z = np.asarray(trace.logits, float)[np.isin(TEXT, keep), 0]
        centred = z - z.mean(-1, keepdims=True)
        # With M experts, 1 - 1/M of the variance is left by the centring.
        spread = np.sqrt(centred.var(0).mean() / (1 - 1 / EXPERTS))
        return float(null_congestion(jnp.asarray(spread), TOP_K, EXPERTS))

    texts = np.arange(TEXTS)
    pseudo = np.array(
        [TEXTS * null(texts) - (TEXTS - 1) * null(np.delete(texts, t)) for t in texts]
    )
    reach = stats.t.ppf(0.95, TEXTS - 1) * pseudo.std(ddof=1) / np.sqrt(TEXTS)
    want = pseudo.mean() + np.array([-1, 0, 1]) * reach
    got = [found[0].null_interval[0][0], found[0].null[0], found[0].null_interval[1][0]]
    np.testing.assert_allclose(got, want, atol=2e-2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_plain_choices_against_a_sort(dtype):
    rng = np.random.default_rng(0)
    logits = rng.integers(-3, 4, size=(200, 6)).astype(dtype)  # many ties
    choices = np.argsort(rng.random((200, 6)), axis=-1)[:, :2]
    got = np.asarray(plain_choices(jnp.asarray(logits), jnp.asarray(choices)))
    for z, chosen, found in zip(logits, choices, got, strict=True):
        order = sorted(range(6), key=lambda i: (-z[i], i not in chosen, i))
        assert sorted(found) == sorted(order[:2])


@pytest.mark.parametrize("seed", [2, 3, 5])
def test_float32_costs_the_corrected_fit_no_digit_that_shows(seed):
    """A load within a few percent of uniform, over 64 experts: against the same sums in float64."""
    experts, texts = 64, 40
    rng = np.random.default_rng(seed)
    quality = 0.2 * rng.standard_normal(experts) + 0.05 * rng.standard_normal((texts, experts))
    counts = np.round(2000 * np.exp(0.02 * rng.standard_normal(experts)))
    counts = counts + rng.integers(-40, 40, (texts, experts))
    keep = np.concatenate([np.ones((1, texts)), 1 - np.eye(texts)])
    found = {}
    for dtype in (np.float32, np.float64):
        load = (keep @ counts).astype(dtype)
        load = load / load.sum(-1, keepdims=True)
        value = (keep @ quality / keep.sum(-1, keepdims=True)).astype(dtype)
        start = fit_congestion(value[0], load[0], "kl").congestion
        found[dtype] = fit_corrected(start, value[0], load[0], value[1:], load[1:]).congestion
    assert found[np.float32].dtype == jnp.float32
    assert float(found[np.float32]) == pytest.approx(float(found[np.float64]), abs=FLOAT32)
