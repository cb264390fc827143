"""The game at the level of tokens: exact against brute force, smooth against finite differences."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.numerics.status import Status
from mfgjax.price import fit_token_congestion
from mfgjax.price.scores import Ranked, ranked_tokens
from mfgjax.price.slope import fit_price_slope
from mfgjax.price.smooth import smooth_token_congestion
from mfgjax.price.token_congestion import Game
from mfgjax.price.token_interval import edge_metric, token_congestion_interval
from mfgjax.trace.choice_bound import SelectionRule

from .conftest import EXPERTS, TOP_K, make_tokens

DOSE = 10.0
STEP = 1e-5
DERIVATIVE_RTOL = 1e-5


def residual(trace, congestion):
    """(1) by sorting, at one gamma."""
    score = trace.logits[:, 0].astype(float)
    choices = trace.choices[:, 0].astype(int)
    load = np.bincount(choices.ravel(), minlength=EXPERTS) / choices.size
    taken = np.argsort(-(score - congestion * load), axis=-1, kind="stable")[:, :TOP_K]
    return np.abs(np.bincount(taken.ravel(), minlength=EXPERTS) / choices.size - load).sum()


def priced_by(congestion, tokens=250):
    """A price that is a line in the observed load, to the last token."""
    trace = make_tokens(np.zeros(EXPERTS), tokens=tokens)
    shift = np.linspace(-0.5, 0.5, EXPERTS).astype(np.float32)
    logits = trace.logits + shift
    load = np.full(EXPERTS, 1 / EXPERTS)
    for _ in range(200):
        taken = np.argsort(-(logits - congestion * load), axis=-1)[..., :TOP_K]
        load = 0.9 * load + 0.1 * np.bincount(taken.ravel(), minlength=EXPERTS) / taken.size
    return dataclasses.replace(trace, logits=logits, choices=taken.astype(np.uint8))


@pytest.fixture(scope="module")
def dosed():
    return priced_by(DOSE)


@pytest.mark.parametrize("congestion", [-4.0, 2.0, DOSE])
def test_a_price_set_by_hand_comes_back(congestion):
    found = fit_token_congestion(priced_by(congestion), 0)
    assert found.exact and abs(found.congestion - congestion) < 0.02 * abs(congestion) + 0.05
    assert abs(found.projection - congestion) < 0.02 * abs(congestion) + 0.05
    assert found.residual < 0.003 < found.residual_at_zero


def test_it_is_the_least_residual_of_a_fine_grid(priced):
    """On a price that is no line in the load, so that the residual is not 0."""
    found = fit_token_congestion(priced, 0)
    np.testing.assert_allclose(residual(priced, (found.low + found.high) / 2), found.residual)
    grid = found.congestion + np.linspace(-8, 8, 1601)
    least = min(residual(priced, gamma) for gamma in grid)
    assert found.residual <= least + 1e-12
    assert found.residual > 0.01
    # Just outside the piece the residual is another one.
    for gamma in (found.low - 1e-6, found.high + 1e-6):
        assert residual(priced, gamma) > found.residual - 1e-12
    # Ends are changes of the load.
    assert residual(priced, found.low - 1e-6) != pytest.approx(found.residual, abs=1e-9)


def test_beyond_a_budget_the_bracket_is_certified(priced):
    exact = fit_token_congestion(priced, 0)
    rough = fit_token_congestion(priced, 0, most_crossings=10)
    assert not rough.exact
    assert rough.low <= exact.low and exact.high <= rough.high
    assert rough.residual >= exact.residual


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_router_without_a_price_has_zero_and_residual_zero(dtype):
    """Rounded logits tie; ties are the router's own to break."""
    trace = make_tokens(np.zeros(EXPERTS))
    rough = (
        dataclasses.replace(trace, logits=(trace.logits * 8).round() / 8)
        if dtype is np.float16
        else trace
    )
    rough = dataclasses.replace(rough, logits=rough.logits.astype(dtype))
    found = fit_token_congestion(rough, 0)
    assert (found.congestion, found.residual, found.residual_at_zero) == (0, 0, 0)
    assert found.low <= 0 <= found.high


def test_interval_over_texts_takes_off_the_noise_of_the_load():
    """A price at rest on many tokens, read back from few: 60 draws of 24 texts of 40 tokens."""
    many = priced_by(DOSE, tokens=2000)
    choices = many.choices[:, 0].astype(int)
    load = np.bincount(choices.ravel(), minlength=EXPERTS) / choices.size
    ranked, bias = ranked_tokens(many, 0, SelectionRule()), -DOSE * load
    metric = edge_metric(ranked, bias)[None]
    np.testing.assert_allclose(metric.sum(-1), 0, atol=1e-12)
    rng = np.random.default_rng(0)
    fits, raw = [], []
    for _ in range(60):
        drawn = rng.integers(0, len(choices), (24, 40))
        count = np.stack([np.bincount(choices[d].ravel(), minlength=EXPERTS) for d in drawn])
        still = np.zeros((1, EXPERTS))
        used = np.ones((1, EXPERTS), bool)
        fits.append(fit_price_slope(-bias[None], still, used, count[:, None], metric=metric))
        raw.append(Game(Ranked(*(x[drawn.ravel()] for x in ranked))).projection())
    low, high = np.concatenate([f.interval for f in fits]).T
    assert (
        (low <= DOSE) & (high >= DOSE)
    ).mean() > 0.85  # 60 draws of 95%: over .87 but one in 100
    uncorrected = np.median([f.uncorrected for f in fits])
    assert np.median(raw) < 0.95 * DOSE
    assert abs(uncorrected - np.median(raw)) < 0.03 * DOSE  # the same number to first order
    assert abs(np.nanmedian([f.congestion for f in fits]) - DOSE) < DOSE - np.median(raw)


def test_interval_of_a_trace_agrees_with_the_exact_fit(dosed):
    found = token_congestion_interval(dosed)
    exact = fit_token_congestion(dosed, 0)
    low, high = found.interval[0]
    assert low <= exact.congestion <= high
    np.testing.assert_allclose(found.uncorrected[0], exact.projection, rtol=0.03)


def test_an_even_load_says_nothing():
    trace = make_tokens(np.zeros(EXPERTS), tokens=EXPERTS)
    choices = (np.arange(len(trace.text))[:, None] + [0, 1]) % EXPERTS
    found = fit_token_congestion(
        dataclasses.replace(trace, choices=choices[:, None].astype(np.uint8)), 0
    )
    assert (found.low, found.high) == (-np.inf, np.inf)


SMOOTH = jax.jit(lambda z, f, t: smooth_token_congestion(z, f, TOP_K, t))


@jax.jit
@jax.vmap
def smooth_with_slopes(score, load, temperature):
    """Of a batch of four, and the gradient of each congestion."""

    def value(*at):
        found = smooth_token_congestion(*at[:2], TOP_K, at[2])
        return found.congestion, found

    gradient, found = jax.grad(value, (0, 1, 2), has_aux=True)(score, load, temperature)
    return found, gradient


def inputs_of(trace, tokens=60):
    score = trace.logits[:, 0].astype(float)
    choices = trace.choices[:, 0].astype(int)
    load = np.bincount(choices.ravel(), minlength=EXPERTS) / choices.size
    return score[:tokens], load


def test_smooth_comes_to_the_projection_as_it_hardens(dosed):
    hard = fit_token_congestion(dosed, 0).projection
    score, load = inputs_of(dosed, len(dosed.text))
    off = [abs(float(SMOOTH(score, load, t).congestion) - hard) for t in (0.3, 0.1, 0.01)]
    assert off[2] < 0.02 * DOSE and off[2] < off[0]
    found = SMOOTH(score, load, 0.1)
    assert int(found.status) == Status.CONVERGED
    assert float(found.residual) < 1e-12 and float(found.error_bound) < 1e-11


def test_smooth_derivatives_are_finite_differences(dosed):
    score, load = inputs_of(dosed)

    at = (score, load, np.array(0.2))
    rng = np.random.default_rng(0)
    ways = rng.normal(size=score.shape), 0.02 * rng.normal(size=load.shape), np.array(0.1)
    around = [np.stack([x, x + STEP * w, x - STEP * w, x]) for x, w in zip(at, ways, strict=True)]
    found, gradient = jax.device_get(smooth_with_slopes(*around))
    want = (found.congestion[1] - found.congestion[2]) / (2 * STEP)
    reverse = sum((g[0] * w).sum() for g, w in zip(gradient, ways, strict=True))
    _, forward = jax.jit(partial(jax.jvp, lambda *at: SMOOTH(*at).congestion))(at, ways)
    np.testing.assert_allclose(forward, want, rtol=DERIVATIVE_RTOL)
    np.testing.assert_allclose(reverse, want, rtol=DERIVATIVE_RTOL)


def test_smooth_batches_and_one_bad_instance_spoils_no_other(dosed):
    score, load = inputs_of(dosed)
    scores, loads, heat = (
        np.stack([score, 2 * score, score, score]),
        np.stack([load] * 4),
        [0.2] * 4,
    )
    scores[2, 0, 0], loads[3] = np.nan, 1 / EXPERTS
    many, slopes = smooth_with_slopes(scores, loads, np.array(heat))
    alike, _ = smooth_with_slopes(np.stack([score] * 4), np.stack([load] * 4), np.array(heat))
    np.testing.assert_allclose(many.congestion[0], alike.congestion[2], rtol=1e-10)
    assert many.status.tolist() == [0, 0, Status.BAD_INPUT, Status.UNIDENTIFIED]
    assert np.isnan(np.asarray(many.congestion)).tolist() == [False, False, True, True]
    assert np.isfinite(np.asarray(slopes[1])[:2]).all()


def test_smooth_in_float32(dosed):
    score, load = inputs_of(dosed, len(dosed.text))
    wide = SMOOTH(score, load, 0.1).congestion
    narrow = SMOOTH(score.astype(np.float32), load.astype(np.float32), np.float32(0.1))
    assert narrow.congestion.dtype == jnp.float32
    np.testing.assert_allclose(narrow.congestion, wide, rtol=2e-3)
