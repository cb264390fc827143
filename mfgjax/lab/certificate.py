"""Certificates of balancing prices: how far a bias is from optimal, proven.

For even shares of K places per token, any bias b bounds the mean score of every balanced assignment,

    D(b)  =  mean over tokens of (sum of the K largest of score + b)  -  (K / M) sum_j b_j,            (1)

and any balanced assignment bounds the best from below. The sign rule, proportional steps, quantile balancing
and BIP all descend (1). Host code, float64.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Certificate(NamedTuple):
    """In score units per token.

    Attributes:
        dual: D(b): no balanced assignment has a larger mean score.
        primal: mean score of a balanced assignment made from b's choices.
        gap: their difference, at least 0; 0 proves both optimal.
    """

    dual: float
    primal: float
    gap: float


def certify_balance(
    score: Float[np.ndarray, "token expert"], bias: Float[np.ndarray, " expert"], top_k: int
) -> Certificate:
    """Bounds on the best balanced assignment from a bias.

    The choices of b are made balanced by moving tokens, cheapest first, from experts with too many to experts
    with too few, along one hop each; so the primal is feasible and usually close, not optimal.

    Raises:
        ValueError: T K is no multiple of M: then no assignment is balanced.
    """
    score, bias = np.asarray(score, float), np.asarray(bias, float)
    tokens, experts = score.shape
    if tokens * top_k % experts:
        raise ValueError(
            f"{tokens} tokens x top-{top_k} do not share out evenly over {experts} experts"
        )
    total = score + bias
    chosen = np.zeros(score.shape, bool)
    np.put_along_axis(chosen, np.argsort(-total, axis=1)[:, :top_k], True, axis=1)
    dual = np.where(chosen, total, 0).sum(1).mean() - top_k / experts * bias.sum()
    room = tokens * top_k // experts - chosen.sum(0)
    while (room < 0).any():
        full, free = np.flatnonzero(room < 0), np.flatnonzero(room > 0)
        # price differences cancel over a chain of moves: what counts is the score with the bias
        lost = np.where(
            chosen[:, full, None] & ~chosen[:, None, free], total[:, full, None], np.inf
        )
        cost = lost - total[:, None, free]
        token, source, target = np.unravel_index(np.argmin(cost), cost.shape)
        if not np.isfinite(cost[token, source, target]):
            return Certificate(float(dual), -np.inf, np.inf)
        chosen[token, full[source]], chosen[token, free[target]] = False, True
        room[full[source]] += 1
        room[free[target]] -= 1
    primal = np.where(chosen, score, 0).sum(1).mean()
    return Certificate(float(dual), float(primal), float(dual - primal))
