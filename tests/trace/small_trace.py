"""A trace of a few tokens, for the tests of files and folders."""

import json

import numpy as np
from safetensors.numpy import load_file, save_file

from mfgjax.simulate.drawn_tokens import drawn_trace
from mfgjax.trace import TokenTrace
from mfgjax.trace.storage import read_metadata

TEXTS, LAYERS, EXPERTS, TOP_K = 5, 2, 6, 2


def make_trace(step=10, seed=0) -> TokenTrace:
    rng = np.random.default_rng(seed)
    text = np.repeat(np.arange(TEXTS, dtype=np.int32), rng.integers(1, 9, TEXTS))
    logits = rng.normal(size=(len(text), LAYERS, EXPERTS)).astype(np.float32)
    choices = np.argsort(-logits, axis=-1)[..., :TOP_K]
    names = {"model": "tiny", "revision": f"step{step}", "layers": ("a", "b"), "texts_hash": "x"}
    return drawn_trace(logits, choices, text, step=step, **names)


def rewrite(path, **changed):
    """The same file with some tensors or metadata fields replaced."""
    metadata = json.loads(read_metadata(path).to_json())
    tensors = load_file(path)
    for name, value in changed.items():
        into = tensors if name in tensors or isinstance(value, np.ndarray) else metadata
        into[name] = value
    tensors = {name: value for name, value in tensors.items() if value is not None}
    save_file(tensors, path, {"mfgjax_trace": json.dumps(metadata)})
