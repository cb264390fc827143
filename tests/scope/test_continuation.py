"""Continuation spread on routers whose layers are tied, and on ones whose layers are not."""

import dataclasses

import jax
import numpy as np
import pytest

from mfgjax.estimate import unit_weights
from mfgjax.scope.continuation import (
    continuation_spread,
    estimate_continuation,
    favourite_experts,
    shuffled_continuation,
)
from mfgjax.simulate.drawn_tokens import drawn_trace

EXPERTS, TOP_K, TEXTS, TOKENS = 6, 2, 8, 40


@pytest.fixture(scope="module")
def trace():
    """Layer 1 repeats layer 0; layer 2 is independent of both."""
    rng = np.random.default_rng(0)
    text = np.repeat(np.arange(TEXTS, dtype=np.int32), TOKENS)
    first = rng.standard_normal((len(text), EXPERTS))
    last = rng.standard_normal((len(text), EXPERTS))
    logits = np.stack([first, first, last], 1).astype(np.float32)
    choices = np.argsort(-logits, -1)[..., :TOP_K]
    return drawn_trace(logits, choices, TEXTS, layers=("a", "b", "c"))


def by_hand(favourite, chosen, experts, min_tokens=1):
    def load(rows):
        counts = np.bincount(rows.ravel(), minlength=experts)
        return counts / counts.sum()

    common, found = load(chosen), []
    for expert in range(experts):
        own = chosen[favourite == expert]
        if len(own) >= min_tokens:
            found.append(np.abs(load(own) - common).sum())
    return max(found)


def test_spread_is_the_definition(trace):
    got = estimate_continuation(trace, unit_weights(TEXTS))
    assert got.largest.shape == (1, 2)
    for pair in range(2):
        favourite = trace.logits[:, pair].argmax(-1)
        want = by_hand(favourite, trace.choices[:, pair + 1], EXPERTS)
        assert float(got.largest[0, pair]) == pytest.approx(want, rel=1e-5)
    assert bool((got.average <= got.largest).all())


def test_weights_are_repeated_texts(trace):
    drawn = np.random.default_rng(1).multinomial(TEXTS, np.full(TEXTS, 1 / TEXTS), 1)
    weights = drawn.astype(np.float32)
    assert (weights > 1).any() and (weights == 0).any()
    repeat = np.repeat(np.arange(len(trace.text)), weights[0][trace.text].astype(int))
    want = by_hand(trace.logits[repeat, 0].argmax(-1), trace.choices[repeat, 1], EXPERTS)
    got = estimate_continuation(trace, weights)
    assert float(got.largest[0, 0]) == pytest.approx(want, rel=1e-5)


def test_the_null_tells_tied_layers_from_independent_ones(trace):
    got = estimate_continuation(trace, unit_weights(TEXTS))
    null = shuffled_continuation(trace, jax.random.key(0), 40)
    assert null.average.shape == (40, 2)
    assert float(got.average[0, 0]) > 3 * float(null.average[:, 0].max())
    rank = float((null.average[:, 1] >= got.average[0, 1]).mean())
    assert 0.01 < rank < 0.99
    # The null of a maximum over small groups is far from 0: eps_l alone proves nothing.
    assert float(null.largest.min()) > 0.1


def test_small_groups_do_not_enter_the_maximum():
    pair = np.array([0, 0, 0, 0, 1]), np.eye(3)[[0, 1, 0, 1, 2]], np.ones(5)
    spread = jax.jit(continuation_spread)
    assert float(spread(*pair, 1.0).largest) == pytest.approx(1.6)
    assert float(spread(*pair, 2.0).largest) == pytest.approx(0.4)
    assert np.isnan(spread(*pair, 9.0).largest)


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "sqrtsoftplus", "softmax-after-topk"])
def test_the_bias_is_added_to_the_scores_that_the_router_uses(trace, scoring):
    """Against the rule of each router, written out in NumPy."""
    bias = np.random.default_rng(1).normal(0, 0.4, (3, EXPERTS)).astype(np.float32)
    logits = trace.logits.astype(float)
    score = {
        "softmax": np.exp(logits) / np.exp(logits).sum(-1, keepdims=True),
        "sigmoid": 1 / (1 + np.exp(-logits)),
        "sqrtsoftplus": np.sqrt(np.log1p(np.exp(logits))),
        "softmax-after-topk": logits,
    }[scoring] + bias
    order = np.argsort(-score, -1)
    biased = dataclasses.replace(
        trace,
        metadata=dataclasses.replace(trace.metadata, scoring=scoring),
        # Traces do not keep the order of the choices.
        choices=np.sort(order[..., :TOP_K], -1).astype(np.uint8),
        selection_bias=bias,
    )
    np.testing.assert_array_equal(favourite_experts(biased), order[..., 0])
    if scoring != "softmax-after-topk":
        assert (np.argmax(logits + bias, -1) != order[..., 0]).mean() > 0.05
    unknown = dataclasses.replace(trace.metadata, scoring="unknown")
    found = favourite_experts(dataclasses.replace(biased, metadata=unknown))
    np.testing.assert_array_equal(found, order[..., 0])


def test_the_favourite_is_an_expert_that_was_chosen(trace):
    """Groups of experts or noise may keep a token from the expert with its highest logit."""
    second = np.argsort(-trace.logits, -1)[..., 1:3]
    other = dataclasses.replace(trace, choices=second.astype(np.uint8))
    np.testing.assert_array_equal(favourite_experts(other), second[..., 0])


def test_one_layer_is_refused(trace):
    single = dataclasses.replace(trace, metadata=dataclasses.replace(trace.metadata, layers=("a",)))
    with pytest.raises(ValueError, match="one layer"):
        estimate_continuation(single, unit_weights(TEXTS))
