"""Tokens that were drawn, as a trace."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mfgjax.trace import TokenTrace, TraceMetadata


def drawn_trace(
    logits: Float[np.ndarray, "token layer expert"],
    choices: Int[np.ndarray, "token layer rank"],
    texts: int | Int[np.ndarray, " token"],
    bias: Float[np.ndarray, "layer expert"] | None = None,
    *,
    score: str | None = None,
    **fields,
) -> TokenTrace:
    """A trace of drawn tokens.

    Args:
        logits: stored in float32.
        choices: experts of each token.
        texts: the text of each token, non-decreasing; or the number of texts, all of one length.
        bias: what was added for selection.
        score: what it was added to, `"logits"` or as `SelectionRule.score`; None: not stated.
        fields: other fields of `TraceMetadata`, such as `step`.
    """
    tokens, layers, experts = logits.shape
    if isinstance(texts, int):
        texts = np.repeat(np.arange(texts, dtype=np.int32), tokens // texts)
    routing = {
        "selection_score": [score] * layers,
        "selection_unit": [2.0**-24] * layers,
        "selection_groups": [None] * layers,
        "logit_dtype_in_model": "float32",
    }
    stated: dict[str, Any] = {
        "kind": "tokens",
        "model": "simulated",
        "revision": "main",
        "layers": tuple(f"layers.{layer}.gate" for layer in range(layers)),
        "texts_hash": "simulated",
        "routing": routing if score else {},
    }
    metadata = TraceMetadata(
        **(stated | fields), experts=experts, top_k=choices.shape[-1], text_count=int(texts[-1]) + 1
    )
    return TokenTrace(
        metadata,
        np.asarray(logits, np.float32),
        np.asarray(choices).astype(np.min_scalar_type(experts - 1)),
        texts,
        bias if bias is None else np.asarray(bias, np.float32),
    )
