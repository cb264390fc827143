"""The permutation null in closed form, and the excess over every null, on small routers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mfgjax.estimate import (
    counterfactual_excess,
    dispersion_excess,
    fit_congestion,
    null_congestion,
    permutation_excess,
    unit_weights,
)
from mfgjax.estimate.inference.corrected import influence_error
from mfgjax.estimate.inference.quality import estimate_quality_and_load
from mfgjax.estimate.inference.weights import jackknife_groups
from mfgjax.estimate.null.counterfactual import plain_choices, with_plain_choices
from mfgjax.estimate.null.excess import KEEPS
from mfgjax.estimate.null.own_logits import own_logits, permuted_load
from mfgjax.estimate.null.permutation import independent_load, with_bins
from mfgjax.simulate.drawn_tokens import drawn_trace
from mfgjax.simulate.top_k_router import balance_by_bias, choose_experts, draw_logits
from mfgjax.trace import TokenTrace
from mfgjax.trace.statistics import per_text_statistics, statistics_of

TEXTS, TOKENS, EXPERTS, TOP_K = 12, 60, 8, 2
TEXT = np.repeat(np.arange(TEXTS, dtype=np.int32), TOKENS)


ROWS = 100  # weightings in a call: one program for all of them


@jax.jit
def draw(own, noise):
    """Logits, and their choices without and with a selection bias."""
    quality = 0.5 * jax.random.normal(own, (EXPERTS,), jnp.float32)
    spread = jnp.linspace(0.7, 2.0, EXPERTS, dtype=jnp.float32)
    logits = draw_logits(noise, quality, spread, TEXTS * TOKENS)
    bias = 0.6 * balance_by_bias(logits, TOP_K, steps=60)
    return logits, choose_experts(logits, TOP_K), choose_experts(logits, TOP_K, bias)


@pytest.fixture(scope="module")
def traces():
    logits, *choices = jax.device_get(draw(jax.random.key(0), jax.random.key(1)))
    names = {"revision": "step0", "layers": ("gate",)}
    return [drawn_trace(logits[:, None], chosen[:, None], TEXTS, **names) for chosen in choices]


@pytest.fixture(scope="module")
def trace(traces) -> TokenTrace:
    return traces[0]


@pytest.fixture(scope="module")
def balanced_trace(traces) -> TokenTrace:
    return traces[1]


@pytest.fixture(scope="module")
def binned(trace):
    sums = statistics_of(trace).statistics
    return with_bins(sums, trace.logits, trace.text, TOP_K)


@jax.jit
def loads_and_fits(weights, binned):
    """Load and null under each weighting, and the kl congestion of both."""
    quality, load = estimate_quality_and_load(binned, weights)
    null = independent_load(weights, binned, TOP_K)
    fits = fit_congestion(jnp.stack([quality] * 2), jnp.stack([load, null]), "kl")
    return load, null, fits.congestion


def test_independent_load_is_what_shuffling_gives(trace, binned):
    """Against NumPy draws from the weighted logits of each expert; so for the weights of shuffles."""
    weights = np.stack([np.ones(TEXTS), np.r_[3, 0, 2, np.ones(TEXTS - 4), 0]]).astype(np.float32)
    got = np.asarray(loads_and_fits(np.resize(weights, (ROWS, TEXTS)), binned)[1])[:, 0]
    rng, draws = np.random.default_rng(0), 200_000
    own = np.asarray(own_logits(trace.logits))[:, 0]
    shuffle = jax.jit(
        jax.vmap(lambda k, logits, w: permuted_load(k, logits, TOP_K, w), (0, None, None))
    )
    for row, weight in enumerate(weights):
        share = weight[TEXT] / weight[TEXT].sum()
        columns = [rng.choice(own[:, i], draws, p=share) for i in range(EXPERTS)]
        chosen = np.argsort(-np.stack(columns, -1), axis=-1)[:, :TOP_K]
        want = np.bincount(chosen.ravel(), minlength=EXPERTS) / chosen.size
        error = np.sqrt(want * (1 - want) / draws)
        assert (np.abs(got[row] - want) < 5 * error + 1e-3).all()
        keys = jax.random.split(jax.random.key(row), 60)
        load = np.asarray(shuffle(keys, trace.logits, weight[TEXT]))[:, 0]
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

    @jax.jit
    def congestion_and_null(logits, chosen):
        text, weights = jnp.zeros(tokens, jnp.int32), unit_weights(1)
        sums = per_text_statistics(logits, chosen, text, 1)
        null = independent_load(weights, with_bins(sums, logits, text, TOP_K), TOP_K)
        mean, load = estimate_quality_and_load(sums, weights)
        fits = fit_congestion(jnp.stack([mean[0]] * 2), jnp.stack([load[0], null[0]]), "kl")
        return fits.congestion

    own, null = congestion_and_null(logits, chosen)
    assert np.abs(own).max() > 8
    np.testing.assert_allclose(own - null, 0, atol=0.35)  # sampling error 0.13, bins 0.1


def test_own_logits_know_no_shift():
    """Independent variances come back, from raw, shifted and centred logits, two experts included."""
    rng = np.random.default_rng(1)
    for experts in (2, 3, 8):
        spread = np.linspace(0.5, 2, experts)
        logits = spread * rng.standard_normal((40_000, 1, experts))
        shifted = logits + 3 * rng.standard_normal((40_000, 1, 1))
        centred = logits - logits.mean(-1, keepdims=True)
        found = [np.asarray(own_logits(x)) for x in (logits, shifted, centred)]
        want = spread if experts > 2 else np.full(2, np.sqrt((spread**2).mean()))
        for own in found:
            np.testing.assert_allclose(own[:, 0].std(0), want, rtol=0.03)
            np.testing.assert_allclose(own[:, 0].std(0), found[0][:, 0].std(0), rtol=1e-9)
    np.testing.assert_allclose(found[0], logits, atol=0.05)
    assert np.isfinite(own_logits(np.ones_like(logits))).all()


def test_excess_with_and_without_a_selection_bias(trace, balanced_trace, binned):
    none = permutation_excess(trace)
    assert not none.excludes_zero[0]
    balanced = permutation_excess(balanced_trace)
    assert balanced.excludes_zero[0] and balanced.excess[0] > 10
    assert balanced.null[0] == pytest.approx(none.null[0], abs=1e-3)  # same logits
    # The paired spread is that of resampled texts, up to the second dose of noise.
    drawn = np.random.default_rng(0).multinomial(TEXTS, np.full(TEXTS, 1 / TEXTS), ROWS)
    weights = drawn.astype(np.float32)
    fits = loads_and_fits(weights, binned)[2]
    error = (none.excess_interval[1] - none.excess[0]) / stats.t.ppf(0.975, TEXTS - 1)
    # 0.98 here; the spread of 100 draws is itself known to 7%.
    assert np.std(fits[0] - fits[1]) == pytest.approx(error[0], rel=0.25)


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
    apart, once = dispersion_excess(twice), dispersion_excess(trace)
    assert np.ptp(apart.excess_interval) < 0.8 * np.ptp(once.excess_interval)
    with pytest.raises(ValueError, match="documents name 5 texts, but there are 24"):
        permutation_excess(twice, documents=labels[:5])
    with pytest.raises(ValueError, match="2 documents give no standard error"):
        jackknife_groups(4, documents=["a", "a", "b", "b"])
    assert np.bincount(jackknife_groups(1000)).tolist() == [10] * 100
    assert float(influence_error(np.array([[1.0], [2.0], [3.0]]))[0]) == pytest.approx(3**-0.5)


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


def test_the_counterfactual_null_is_the_estimate_without_the_bias(trace, balanced_trace):
    """The same logits with and without a bias: the null of the one is the estimate of the other."""
    plain = counterfactual_excess(trace)
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

    null_of = jax.jit(lambda spread: null_congestion(spread, TOP_K, EXPERTS))

    def null(keep):
        z = np.asarray(trace.logits, float)[np.isin(TEXT, keep), 0]
        centred = z - z.mean(-1, keepdims=True)
        # With M experts, 1 - 1/M of the variance is left by the centring.
        spread = np.sqrt(centred.var(0).mean() / (1 - 1 / EXPERTS))
        return float(null_of(spread))

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
    got = np.asarray(jax.jit(plain_choices)(logits, choices))
    for z, chosen, found in zip(logits, choices, got, strict=True):
        order = sorted(range(6), key=lambda i: (-z[i], i not in chosen, i))
        assert sorted(found) == sorted(order[:2])
