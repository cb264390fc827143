"""Optimal transport baseline: what a Sinkhorn router would dispatch from the same logits.

BASE layers assign tokens so that every expert gets equally many (Lewis et al. 2021, arXiv 2103.16716):
as a prediction of load that is the uniform model, whatever the logits. A Sinkhorn router balances the
scores by a few scalings and then takes the top-K of the balanced plan (Clark et al. 2022,
arXiv 2202.01169, S-BASE); its load is close to uniform but not equal to it.
"""

import numpy as np
from scipy.special import logsumexp


def sinkhorn_choices(
    logits: np.ndarray, top_k: int, *, temperature: float = 1.0, iterations: int = 50
) -> np.ndarray:
    """Top-K of the entropic transport plan between tokens and experts with equal shares.

    Args:
        logits: `[token, expert]`.
        top_k: experts per token.
        temperature: entropic regularisation, in logits.
        iterations: Sinkhorn scalings, in the log domain.

    Returns:
        1 where a token is dispatched to an expert, `[token, expert]`.
    """
    score = np.asarray(logits, np.float64) / temperature
    tokens, experts = score.shape
    price = np.zeros(experts)
    for _ in range(iterations):
        own = np.asarray(logsumexp(score - price, axis=1))[:, None]
        price += np.asarray(logsumexp(score - price - own, axis=0)) - np.log(tokens / experts)
    chosen = np.argpartition(price - score, top_k - 1, axis=1)[:, :top_k]
    dispatch = np.zeros_like(score)
    np.put_along_axis(dispatch, chosen, 1.0, axis=1)
    return dispatch
