"""A router with a known price: tokens, the top-K of logits plus a bias, eight texts."""

import numpy as np
import pytest

from mfgjax.trace import TokenTrace, TraceMetadata

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
    choices = np.argsort(-(ranked + bias), axis=-1)[..., :top_k].astype(np.uint8)
    routing = {
        "selection_score": [score],
        "selection_unit": [2.0**-24],
        "selection_groups": [None],
        "logit_dtype_in_model": "float32",
    }
    metadata = TraceMetadata(
        kind="tokens",
        model="simulated",
        revision="main",
        experts=experts,
        top_k=top_k,
        layers=("layers.0.gate",),
        texts_hash="x",
        text_count=TEXTS,
        routing=routing,
    )
    stored = np.broadcast_to(np.asarray(bias, np.float32), (1, experts)).copy()
    return TokenTrace(metadata, logits, choices, text, stored)


@pytest.fixture(scope="session")
def bias():
    values = np.random.default_rng(9).normal(size=EXPERTS) * 0.3
    return values - values.mean()


@pytest.fixture(scope="session")
def priced(bias):
    return make_tokens(bias)
