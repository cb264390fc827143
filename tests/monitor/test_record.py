"""The record against the toolkit's own estimators, and through its line of JSON."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.estimate import estimate_dispersion, fit_congestion, null_congestion
from mfgjax.metrics.per_layer import measure_balance
from mfgjax.monitor import Monitor, MonitorError, routing_sums
from mfgjax.monitor.journal import read_journal
from mfgjax.monitor.measure import measure, price_slope, signed_congestion
from mfgjax.monitor.record import PER_LAYER, read_record
from mfgjax.monitor.sums import step_sums

EXPERTS, TOP_K, TOKENS = 16, 4, 500


def routed(seed=0, experts=EXPERTS, tokens=TOKENS, uneven=1.0):
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(tokens, experts)) + uneven * draw.normal(size=experts)
    return logits, np.argsort(-logits, 1)[:, :TOP_K]


def sums_of(logits, choices, **more):
    experts = logits.shape[1]
    log_sum = np.logaddexp.reduce(logits, axis=1)
    return {
        "tokens": len(logits),
        "top_k": choices.shape[1],
        "count": np.bincount(choices.ravel(), minlength=experts),
        "logit_sum": logits.sum(0),
        "centred_square_sum": ((logits - logits.mean(1, keepdims=True)) ** 2).sum(),
        "probability_sum": np.exp(logits - log_sum[:, None]).sum(0),
        "lse_square_sum": (log_sum**2).sum(),
        **more,
    }


def test_every_number_is_the_toolkits_own():
    routings = [routed(seed) for seed in range(3)]
    record = measure(step_sums(7, {f"l{i}": sums_of(*r) for i, r in enumerate(routings)}))
    for i, (logits, choices) in enumerate(routings):
        count = jnp.asarray(np.bincount(choices.ravel(), minlength=EXPERTS), float)
        balance = measure_balance(count)
        for name in ("max_violation", "max_absolute_violation", "entropy"):
            np.testing.assert_allclose(getattr(record, name)[i], getattr(balance, name), rtol=1e-12)
        assert record.dead_share[i] == balance.dead_experts / EXPERTS
        np.testing.assert_allclose(record.unevenness[i], balance.coefficient_of_variation**2)
        z = jnp.asarray(logits)
        square = ((z - z.mean(1, keepdims=True)) ** 2).sum(0)[None, None]
        spread = estimate_dispersion(
            jnp.ones(1), jnp.full(1, float(TOKENS)), z.sum(0)[None, None], square
        )[0]
        fit = fit_congestion(z.mean(0), count / count.sum(), "kl")
        np.testing.assert_allclose(record.congestion[i], fit.congestion, rtol=1e-8)
        np.testing.assert_allclose(
            record.congestion_null[i], null_congestion(spread, TOP_K, EXPERTS), rtol=1e-9
        )
        np.testing.assert_allclose(record.z[i], (jax.nn.logsumexp(z, 1) ** 2).mean(), rtol=1e-12)


def test_congestion_of_extreme_loads():
    quality = np.array([[0.0, 1.0, 2.0]] * 3)
    even, half = np.full(3, 1 / 3), np.array([0.5, 0.5, 0.0])
    found = signed_congestion(quality, np.stack([even, half, np.array([1e-4, 1e-4, 1 - 2e-4])]))
    assert np.isnan(found[0]) and found[1] == -np.inf and found[2] < 0


def test_the_price_slope_is_gamma_and_not_pulled_to_zero():
    draw = np.random.default_rng(0)
    share = np.exp(0.3 * draw.normal(size=32))
    share /= share.sum()
    bias = -12.0 * (share - 1 / 32)
    slopes = []
    for _ in range(200):
        chance = share * 4
        count = (draw.random((400, 32)) < chance).sum(0)
        slopes.append(price_slope(bias, count, 4))
    assert abs(np.nanmean(slopes) - 12) < 4 * np.nanstd(slopes) / np.sqrt(200) + 0.6
    assert np.isnan(price_slope(np.zeros(32), count, 4))
    assert np.isnan(price_slope(bias, np.full(32, 50) + (np.arange(32) < 2), 4))  # noise


def test_front_of_jax_gives_the_same_record(tmp_path):
    """Under jit, in float32, with padding; two lines in the loop."""
    logits, choices = routed()
    mask = np.arange(TOKENS) % 5 > 0
    bias = np.linspace(-1, 1, EXPERTS)
    traced = jax.jit(lambda z, c, m, b: routing_sums(z, c, m, bias=b))
    front = traced(*(jnp.asarray(x) for x in (logits.astype(np.float32), choices, mask)), bias)
    with Monitor(tmp_path) as monitor:
        got = monitor.observe(3, {"layer_0": front})
    kept = sums_of(logits.astype(np.float32)[mask], choices[mask], bias=bias)
    want = measure(step_sums(3, {"layer_0": kept}))
    np.testing.assert_array_equal(got.count[0], want.count[0])
    for name in PER_LAYER:
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-6, err_msg=name)
    assert front["padding"].sum() == 100 * TOP_K


def test_probabilities_in_place_of_logits():
    logits, choices = routed()
    sums = jax.jit(routing_sums)
    with pytest.raises(MonitorError, match=r"step 0, a: .* these are probabilities"):
        Monitor().observe(0, {"a": sums(jax.nn.softmax(logits), choices)})
    Monitor().observe(0, {"a": sums(jnp.asarray(logits), choices)})


@pytest.mark.parametrize("layers", [1, 40])
def test_twelve_scalars_whatever_the_size(layers):
    bias = np.linspace(0, 1, EXPERTS)
    each = {f"l{i}": sums_of(*routed(i), bias=bias, router_gradient=1.0) for i in range(layers)}
    record = measure(step_sums(0, each))
    names = record.scalars()
    assert len(names) == 12
    assert names["moe/worst_layer"] == np.argmax(record.max_violation)
    every = record.scalars(per_layer=True)
    assert every[f"moe/max_violation/layer_{layers - 1}"] == record.max_violation[-1]


def test_a_record_survives_its_line():
    layers = {"a": sums_of(*routed()), "b": sums_of(*routed(1, experts=8))}
    record = measure(step_sums(5, layers))
    again = read_record(json.loads(record.to_json()))
    for item in dataclasses.fields(record):
        np.testing.assert_equal(getattr(again, item.name), getattr(record, item.name))
    other = json.loads(record.to_json()) | {"version": 99}
    with pytest.raises(MonitorError, match=r"version 99; this mfgjax reads version 1"):
        read_record(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": np.full(EXPERTS, 10)}, "160 choices of 500 tokens with top_k=4: 2000"),
        ({"count": np.full(EXPERTS, 0.5)}, "are no counts"),
        ({"bias": np.zeros(3)}, r"bias has shape \(3,\), count has \(16,\)"),
        ({"colour": 1}, "unknown sums"),
        ({"tokens": None}, r"\['tokens'\] missing"),
    ],
)
def test_sums_that_cannot_be_right(change, message):
    with pytest.raises(MonitorError, match=message):
        step_sums(0, {"a": sums_of(*routed()) | change})
    with pytest.raises(MonitorError, match="no layer was handed over"):
        step_sums(0, {})


def test_layers_that_change(tmp_path):
    monitor = Monitor(tmp_path)
    monitor.observe(0, {"a": sums_of(*routed())})
    with pytest.raises(MonitorError, match=r"layers b \(16 experts\), the steps before had a"):
        monitor.observe(1, {"b": sums_of(*routed())})
    monitor.close()
    assert len(read_journal(tmp_path).records) == 1
