"""Every quality goes one way, from statistics through the bootstrap to `track`; sensitivity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize_scalar

import mfgjax
from mfgjax.dynamics.sweep_tokens import tokens_of_sweep
from mfgjax.estimate import bootstrap_texts, congestion_estimator, unit_weights
from mfgjax.estimate.inference.quality import (
    QUALITIES,
    TOKEN_QUALITIES,
    estimate_quality_and_load,
)
from mfgjax.estimate.inference.sensitivity import estimate_sensitivity
from mfgjax.estimate.inference.token_quality import with_tokens
from mfgjax.estimate.inference.weights import resample_weights
from mfgjax.simulate.drawn_tokens import drawn_trace
from mfgjax.trace import TraceError, read_sweep, write_trace
from mfgjax.trace.statistics import per_text_statistics, statistics_of

COUNTS, LAYERS, EXPERTS, TOP_K = np.array([40, 55, 30, 62, 45, 50]), 2, 6, 2
TEXT = np.repeat(np.arange(6, dtype=np.int32), COUNTS)


def draw_tokens(seed):
    rng = np.random.default_rng(seed)
    quality = 0.4 * rng.standard_normal((LAYERS, EXPERTS))
    logits = quality + rng.gumbel(size=(len(TEXT), LAYERS, EXPERTS))
    return logits, np.argsort(-logits, axis=-1)[..., :TOP_K]


@pytest.fixture(scope="module")
def tokens():
    logits, chosen = draw_tokens(0)
    sums = per_text_statistics(logits, chosen, TEXT, 6)
    return logits, chosen, with_tokens(sums, jnp.asarray(logits), jnp.asarray(TEXT))


def by_hand(logits, chosen, weight, quality):
    """Quality and load from copies of the tokens, as the definitions say."""
    index = np.repeat(np.arange(len(TEXT)), weight[TEXT].astype(int))
    for_load = index
    if quality == "split-half":
        first = TEXT[index] < 3
        index, for_load = index[first], index[~first]
    sample = logits[index]
    odds = np.exp(sample)
    value = {
        "mean": lambda: sample.mean(0),
        "split-half": lambda: sample.mean(0),
        "median": lambda: np.median(sample, axis=0),
        # Ten copies: then a tenth of the tokens is a whole number, as scipy needs it.
        "trimmed": lambda: stats.trim_mean(np.repeat(sample, 10, axis=0), 0.1, axis=0),
        "log-probability": lambda: np.log((odds / odds.sum(-1, keepdims=True)).mean(0)),
    }[quality]()
    load = np.stack([np.bincount(chosen[for_load, i].ravel(), minlength=6) for i in range(LAYERS)])
    return value, load / load.sum(-1, keepdims=True)


def signed_congestion(quality, load):
    def cross_entropy(congestion):
        logits = quality - congestion * load
        return np.log(np.exp(logits).sum()) - load @ logits

    return minimize_scalar(cross_entropy, bracket=(-5, 5), tol=1e-12).x


@pytest.fixture(scope="module")
def weights():
    drawn = np.asarray(resample_weights(jax.random.key(4), 6, 3))
    assert (drawn[:, :3].sum(-1) * drawn[:, 3:].sum(-1) > 0).all(), "each half has its texts"
    return drawn


estimate = jax.jit(estimate_quality_and_load, static_argnames="quality")


@pytest.mark.parametrize("quality", QUALITIES)
def test_weighted_estimates_are_those_of_copies_of_the_tokens(tokens, weights, quality):
    logits, chosen, statistics = tokens
    own = weights.astype(statistics.logit_sum.dtype)
    values, loads = estimate(statistics, own, quality=quality)
    for row, weight in enumerate(weights):
        value, load = by_hand(logits, chosen, weight, quality)
        np.testing.assert_allclose(values[row], value, atol=1e-5)
        np.testing.assert_allclose(loads[row], load, atol=1e-6)


@pytest.mark.parametrize("quality", ["mean", "median"])
def test_resamples_are_the_estimate_from_copies_of_the_tokens(tokens, weights, quality):
    """Through the sums with resamples last, which the mean alone takes, and as all others do."""
    logits, chosen, statistics = tokens
    got, status = bootstrap_texts(
        statistics, jax.random.key(4), 3, congestion_estimator("kl", quality)
    )
    assert (status == 0).all()
    for row, weight in enumerate(weights):
        value, load = by_hand(logits, chosen, weight, quality)
        for layer in range(LAYERS):
            want = signed_congestion(value[layer], load[layer])
            assert got[row, layer] == pytest.approx(want, abs=1e-4)


def test_sums_alone_do_not_give_a_median(sweep_folder, tokens):
    sums = statistics_only(tokens[2])
    with pytest.raises(ValueError, match=r"median.*needs every token"):
        estimate_quality_and_load(sums, unit_weights(6), "median")
    with pytest.raises(ValueError, match="'mode' is not one of mean, median"):
        estimate_quality_and_load(tokens[2], unit_weights(6), "mode")  # type: ignore[arg-type]
    with pytest.raises(TraceError, match=r"6 of 6 checkpoints have only sums over texts.*step0"):
        mfgjax.track(sweep_folder, quality="trimmed", resamples=0)


def statistics_only(statistics):
    from mfgjax.trace.schema import TextStatistics

    names = TextStatistics.__dataclass_fields__
    return TextStatistics(**{name: getattr(statistics, name) for name in names})


@pytest.fixture(scope="module")
def token_folder(tmp_path_factory):
    """Three checkpoints; the second has no tokens form."""
    folder = tmp_path_factory.mktemp("tokens")
    for step in (0, 10, 20):
        logits, chosen = draw_tokens(step + 1)
        names = {"revision": f"step{step}", "step": step, "layers": ("a", "b")}
        trace = drawn_trace(logits, chosen, TEXT, **names)
        write_trace(folder / f"step{step}.statistics.safetensors", statistics_of(trace))
        if step != 10:
            write_trace(folder / f"step{step}.tokens.safetensors", trace)
    return folder


def test_track_takes_a_quality(token_folder):
    with pytest.raises(TraceError, match=r"1 of 3 checkpoints have only sums over texts \(step10"):
        mfgjax.track(token_folder, quality="median", resamples=0)
    halves = mfgjax.track(token_folder, quality="split-half", resamples=0)
    assert halves.attrs["quality"] == "split-half"
    logits, chosen = draw_tokens(21)
    value, load = by_hand(logits, chosen, np.ones(6), "split-half")
    got = halves.signed.sel(checkpoint="20", layer="b").item()
    assert got == pytest.approx(signed_congestion(value[1], load[1]), abs=1e-2)


def test_sensitivity_of_a_folder(token_folder):
    sweep = read_sweep(token_folder)
    table = estimate_sensitivity(
        sweep.statistics,
        tokens_of_sweep(token_folder, sweep),
        objectives=("kl", "temperature"),
        reference=("kl", "mean"),
    )
    assert len(table.objective) == 2 * len(QUALITIES) == len(table.congestion)
    rows = dict(
        zip(zip(table.objective, table.quality, strict=True), table.congestion, strict=True)
    )
    for name in QUALITIES:
        missing = name in TOKEN_QUALITIES
        assert np.isfinite(rows["kl", name]).all(-1).tolist() == [True, not missing, True]
        value, load = by_hand(*draw_tokens(1), np.ones(6), name)
        want = signed_congestion(value[0], load[0])
        assert rows["kl", name][0, 0] == pytest.approx(want, abs=1e-2)
        # The temperature's congestion is that of the same slope: T from a grid.
        grid = np.linspace(-3, 5, 80_001)[:, None]
        fits = np.log(np.exp(grid * value[0]).sum(-1)) - grid[:, 0] * (value[0] @ load[0])
        inverse = grid[fits.argmin(), 0]
        assert rows["temperature", name][0, 0] == pytest.approx(6 * (1 / inverse - 1), abs=0.05)
    mean, half = rows["kl", "mean"].mean(-1), rows["kl", "split-half"].mean(-1)
    at = QUALITIES.index("split-half")
    got = table.with_reference.correlation[at]
    assert got == pytest.approx(np.corrcoef(mean, half)[0, 1], rel=1e-6)
    assert table.with_mean[0].shift[at] == pytest.approx((half - mean).mean(), rel=1e-6)
    assert np.isnan(table.with_reference.correlation[QUALITIES.index("median")])  # two checkpoints
