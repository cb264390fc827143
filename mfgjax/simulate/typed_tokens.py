"""Tokens of known types: the multi-type routing game as a generator."""

import numpy as np

from mfgjax.equilibrium import check, solve_equilibrium
from mfgjax.game import Game
from mfgjax.simulate.drawn_tokens import drawn_trace
from mfgjax.trace import TokenTrace


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
