"""A trace of a few tokens, for the tests of files and folders."""

import numpy as np

from mfgjax.simulate.drawn_tokens import drawn_trace
from mfgjax.trace import TokenTrace

TEXTS, LAYERS, EXPERTS, TOP_K = 5, 2, 6, 2


def make_trace(step=10, seed=0) -> TokenTrace:
    rng = np.random.default_rng(seed)
    text = np.repeat(np.arange(TEXTS, dtype=np.int32), rng.integers(1, 9, TEXTS))
    logits = rng.normal(size=(len(text), LAYERS, EXPERTS)).astype(np.float32)
    choices = np.argsort(-logits, axis=-1)[..., :TOP_K]
    names = {"model": "tiny", "revision": f"step{step}", "layers": ("a", "b"), "texts_hash": "x"}
    return drawn_trace(logits, choices, text, step=step, **names)
