"""Choices that no bias explains: the share is bounded from both sides, and the reason guessed."""

import dataclasses

import numpy as np
import pytest

from mfgjax.price import explain_conflict, reveal_price
from mfgjax.trace import TraceError
from mfgjax.trace.choice_bound import SelectionRule

from .conftest import EXPERTS, TOP_K, make_tokens

RULE = SelectionRule()


def with_choices(trace, choices):
    return dataclasses.replace(trace, choices=choices.astype(np.uint8))


def with_noise(trace, share, seed=5):
    """A share of tokens chooses at random."""
    rng = np.random.default_rng(seed)
    choices = trace.choices.copy()
    drawn = rng.random(len(choices)) < share
    random = np.argsort(rng.random((len(choices), 1, EXPERTS)), axis=-1)[..., :TOP_K]
    choices[drawn] = random[drawn]
    return with_choices(trace, choices), drawn.mean()


def test_share_is_between_its_bounds(priced, bias):
    noisy, drawn = with_noise(priced, 0.05)
    found = explain_conflict(noisy, 0, RULE)
    assert 0 < found.least_share <= found.share <= drawn
    assert found.share > 0.5 * drawn  # most random choices are not the top-K
    assert found.reason == "noise at selection"
    assert np.abs(found.bias - bias).max() < 0.1
    # Without the tokens that its bias does not explain there is no conflict.
    total = noisy.logits[:, 0] + found.bias
    chosen = np.zeros(total.shape, bool)
    np.put_along_axis(chosen, noisy.choices[:, 0].astype(int), True, axis=-1)
    good = np.where(chosen, total, np.inf).min(-1) >= np.where(chosen, -np.inf, total).max(-1)
    np.testing.assert_allclose(1 - good.mean(), found.share, atol=2e-3)  # but for rounding
    kept = dataclasses.replace(
        noisy, logits=noisy.logits[good], choices=noisy.choices[good], text=noisy.text[good]
    )
    assert not reveal_price(kept).conflict.any()


def test_two_tokens_that_contradict_each_other_cost_one(priced):
    """As many copies of both as there are tokens above, which compiled it."""
    logits = np.repeat(priced.logits[:1], len(priced.text), axis=0)
    logits[1::2, 0, 0] += 1  # and still the second token leaves expert 0 out
    choices = np.resize(np.asarray([[[0, 1]], [[2, 3]]], np.uint8), priced.choices.shape)
    one = dataclasses.replace(priced, logits=logits, choices=choices)
    found = explain_conflict(one, 0, RULE)
    assert (found.least_share, found.share) == (0.5, 0.5)


def test_reasons(priced, bias):
    sigmoid = make_tokens(0.1 * bias, score="sigmoid")
    found = explain_conflict(sigmoid, 0, RULE)
    assert found.reason == "another score" and "sigmoid" in found.detail

    total = priced.logits + bias.astype(np.float32)
    group = total.reshape(-1, 4, 2).max(-1).argmax(-1)
    masked = np.where((np.arange(EXPERTS) // 2 == group[:, None])[:, None], total, -np.inf)
    grouped = with_choices(priced, np.argsort(-masked, axis=-1)[..., :TOP_K])
    found = explain_conflict(grouped, 0, RULE)
    assert found.reason == "groups" and "1 of 4 groups" in found.detail

    rough = (256 * total).round() / 256  # as a sum of size 1 to 2 in bfloat16
    rounded = with_choices(priced, np.argsort(-rough, axis=-1, kind="stable")[..., :TOP_K])
    found = explain_conflict(rounded, 0, RULE)
    assert found.reason == "rounding"

    full = dataclasses.replace(
        with_noise(priced, 0.05)[0], dispatched=np.ones(priced.choices.shape, np.uint8)
    )
    assert explain_conflict(full, 0, RULE).reason == "capacity"


def test_choices_of_other_logits_are_refused_with_their_share(priced):
    other = make_tokens(np.zeros(EXPERTS), seed=4)
    with pytest.raises(TraceError, match=r"choices of \d+\.\d% of tokens are not the top-K"):
        reveal_price(with_choices(priced, other.choices))
    few, _ = with_noise(priced, 0.05)
    assert reveal_price(few).conflict.all()
    with pytest.raises(TraceError, match="not the top-K"):
        reveal_price(few, refused_share=0.01)
