"""Tokens that were drawn, as a trace; and tokens of known types: the multi-type routing game as a generator."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mfgjax.equilibrium import check, solve_equilibrium
from mfgjax.game import Game
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


def simulate_typed_tokens(
    quality: np.ndarray,
    weight: np.ndarray,
    congestion: float,
    *,
    scatter: float = 1.0,
    texts: int = 60,
    tokens: int = 60,
    seed: int = 0,
) -> tuple[TokenTrace, np.ndarray]:
    """One layer, one expert per token, drawn from the types' equilibrium (Theorem 4.4).

    Logits scatter around the quality of the token's type, and the choice is independent of that
    scatter: the game's assumption holds exactly, so what the types predict is the best prediction.

    Args:
        quality: `[type, expert]`, logits.
        weight: fraction of tokens of each type, summing to 1.
        congestion: >= 0, logits per unit of load.
        scatter: standard deviation of token logits around their type's.
        texts: number of texts.
        tokens: tokens in each text.
        seed: of the draws.

    Returns:
        The trace, and the type of each token `[token]`.
    """
    quality, weight = np.asarray(quality, float), np.asarray(weight, float)
    solved = check(solve_equilibrium(Game(quality, congestion, weight=weight)))
    edges = np.cumsum(np.asarray(solved.type_load), axis=-1)
    rng = np.random.default_rng(seed)
    count, (types, experts) = texts * tokens, quality.shape
    kind = rng.choice(types, count, p=weight / weight.sum())
    logits = quality[kind] + scatter * rng.standard_normal((count, experts))
    choice = (rng.random((count, 1)) > edges[kind]).sum(-1).clip(0, experts - 1)
    trace = drawn_trace(
        logits[:, None],
        choice[:, None, None],
        texts,
        layers=("layer",),
        texts_hash=f"simulated {seed}",
    )
    return trace, kind
