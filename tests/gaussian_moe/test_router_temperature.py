"""Which traces identify a temperature, on routers whose temperature is known."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.estimate import fit_jointly
from mfgjax.gaussian_moe import router_temperature
from mfgjax.gaussian_moe.router_temperature import _drawn
from mfgjax.simulate.drawn_tokens import drawn_trace
from mfgjax.trace.statistics import statistics_of

TOKENS, EXPERTS, TOP_K = 2000, 6, 2


def trace_of(logits, choices):
    return drawn_trace(logits[:, None], choices[:, None], 10)


@pytest.fixture(scope="module")
def logits():
    rng = np.random.default_rng(0)
    return 1.5 * rng.standard_normal((TOKENS, EXPERTS)) + 0.4 * rng.standard_normal(EXPERTS)


def top(scores, k=TOP_K):
    return np.argsort(-scores, axis=-1)[:, :k]


def test_top_k_choices_say_nothing(logits):
    for bias in (0.0, np.linspace(-1, 1, EXPERTS)):
        (found,) = router_temperature(trace_of(logits, top(logits + bias)))
        assert found.regime == 1 and not found.identified and np.isnan(found.temperature)
        assert "top-K" in found.reason


def test_drawn_choices_give_the_temperature_back(logits):
    rng = np.random.default_rng(1)
    for temperature, k in ((0.5, 1), (2.0, 2)):
        choices = top(logits / temperature + rng.gumbel(size=logits.shape), k)
        (found,) = router_temperature(trace_of(logits, choices))
        assert found.regime == 2 and found.identified, found.reason
        assert abs(found.temperature - temperature) < 4 * found.standard_error
        assert found.standard_error < 0.08 * temperature


def test_standard_error_of_a_draw_is_the_spread(logits):
    rng = np.random.default_rng(5)
    found = [_drawn("", logits, top(logits / 2 + rng.gumbel(size=logits.shape))) for _ in range(60)]
    errors = [(one.temperature - 2) / one.standard_error for one in found if one.identified]
    assert len(errors) >= 58, "at most a chance refusal"
    assert 0.75 < np.std(errors) < 1.25 and abs(np.mean(errors)) < 0.5


def test_another_noise_is_refused(logits):
    rng = np.random.default_rng(2)
    jitter = logits * rng.uniform(0.7, 1.3, logits.shape)
    (found,) = router_temperature(trace_of(logits, top(jitter)))
    assert found.regime == 2 and not found.identified and "not from softmax" in found.reason
    (found,) = router_temperature(trace_of(logits, top(rng.gumbel(size=logits.shape))))
    assert found.regime == 2 and not found.identified and "do not follow" in found.reason


def test_loads_alone_are_fit_jointly(logits):
    statistics = statistics_of(trace_of(logits, top(logits)))
    (found,) = router_temperature(statistics)
    sums = statistics.statistics
    quality = np.asarray(sums.logit_sum, float)[:, 0].sum(0) / TOKENS
    load = np.asarray(sums.dispatch_count, float)[:, 0].sum(0) / (TOKENS * TOP_K)
    joint = fit_jointly(jnp.asarray(quality), jnp.asarray(load), float(TOKENS * TOP_K))
    assert found.regime == 3 and found.identified == bool(joint.identified)
    np.testing.assert_allclose(found.condition, joint.condition, rtol=1e-9)
    np.testing.assert_allclose(found.temperature, joint.temperature, rtol=1e-9)
    errors = [f"{float(e):.2g}" for e in joint.standard_error[::-1]]
    assert found.identified or f"they are {errors[0]} and {errors[1]}" in found.reason
    (found,) = router_temperature(statistics, quality_in_units=False)
    assert found.regime == 4 and not found.identified and "up to a scale" in found.reason


def test_a_load_far_from_linear_gives_a_temperature():
    rng = np.random.default_rng(3)
    quality = np.array([2.0, 1.0, 0.0, -0.5, -1.0, -4.0])
    load = np.full(EXPERTS, 1 / EXPERTS)
    for _ in range(500):  # equilibrium at congestion 2, temperature .7
        response = np.exp((quality - 2 * load) / 0.7)
        load = 0.7 * load + 0.3 * response / response.sum()
    many = 40_000
    choices = rng.choice(EXPERTS, size=(many, 1), p=load)
    trace = trace_of(np.tile(quality, (many, 1)), choices)
    (found,) = router_temperature(statistics_of(trace))
    assert found.regime == 3 and found.identified, found.reason
    assert abs(found.temperature - 0.7) < 4 * found.standard_error


def test_a_rule_that_the_trace_does_not_name(logits):
    trace = trace_of(logits, top(logits))
    unknown = dataclasses.replace(trace.metadata, scoring="unknown")
    (found,) = router_temperature(dataclasses.replace(trace, metadata=unknown))
    assert found.regime == 0 and not found.identified and "Extract it again" in found.reason
