"""A router with a known price: tokens, the top-K of logits plus a bias, eight texts."""

import numpy as np
import pytest

from mfgjax.simulate.drawn_tokens import drawn_trace

EXPERTS, TOP_K, TEXTS, TOKENS = 8, 2, 8, 250


def make_tokens(bias, *, seed=0, score="logits", experts=EXPERTS, top_k=TOP_K, tokens=TOKENS):
    """One layer; float32 logits, the choice made in float64."""
    rng = np.random.default_rng(seed)
    text = np.repeat(np.arange(TEXTS, dtype=np.int32), tokens)
    logits = rng.normal(size=(len(text), 1, experts)).astype(np.float32)
    exact = logits.astype(float)
    ranked = {
        "logits": exact,
        "sigmoid": 1 / (1 + np.exp(-exact)),
        "softmax": np.exp(exact) / np.exp(exact).sum(-1, keepdims=True),
    }[score]
    choices = np.argsort(-(ranked + bias), axis=-1)[..., :top_k]
    return drawn_trace(
        logits, choices, TEXTS, np.broadcast_to(bias, (1, experts)).copy(), score=score
    )


@pytest.fixture(scope="session")
def bias():
    values = np.random.default_rng(9).normal(size=EXPERTS) * 0.3
    return values - values.mean()


@pytest.fixture(scope="session")
def priced(bias):
    return make_tokens(bias)
