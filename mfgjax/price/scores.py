"""What a router ranks, token by token, and which experts it compares; on the host, float64."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit, log_softmax

from mfgjax.trace.choice_bound import SelectionRule, logit_rounding
from mfgjax.trace.schema import TokenTrace


class Ranked(NamedTuple):
    """One layer's tokens as its router saw them.

    Attributes:
        score: what the price is added to.
        choices: experts used.
        chosen: the same as a mask.
        compared: experts that the choice was among: all, or those of the groups that a choice is in.
    """

    score: Float[np.ndarray, "token expert"]
    choices: Int[np.ndarray, "token top_k"]
    chosen: Bool[np.ndarray, "token expert"]
    compared: Bool[np.ndarray, "token expert"]


def ranked_tokens(trace: TokenTrace, layer: int, rule: SelectionRule) -> Ranked:
    """The tokens of one layer; those that took an expert of a masked group compare nothing."""
    score = score_of(trace.logits[:, layer].astype(float), rule)
    choices = trace.choices[:, layer].astype(int)
    chosen = np.zeros(score.shape, bool)
    np.put_along_axis(chosen, choices, True, axis=-1)
    compared = np.ones(score.shape, bool)
    if rule.groups is not None:
        count, limit = rule.groups
        used = chosen.reshape(len(chosen), count, -1).any(-1)
        compared = np.repeat(used, score.shape[1] // count, axis=-1)
        compared &= used.sum(-1, keepdims=True) <= limit
        compared |= chosen
    return Ranked(score, choices, chosen, compared)


def score_of(logits: np.ndarray, rule: SelectionRule) -> np.ndarray:
    """The score of logits `[..., expert]`."""
    if rule.score == "softmax":
        return np.exp(log_softmax(logits, axis=-1))
    if rule.score == "sigmoid":
        return expit(logits)
    if rule.score == "sqrtsoftplus":
        return np.sqrt(np.logaddexp(0, logits))
    return logits


def shortfall(ranked: Ranked, bias: Float[np.ndarray, " expert"]) -> Float[np.ndarray, " token"]:
    """How far the worst chosen expert is below the best one left out at `bias`; > 0: not the top-K.

    Experts without a bias (NaN) are not compared.
    """
    known = ~np.isnan(bias)
    total = ranked.score + np.where(known, bias, 0)
    left_out = np.where(ranked.compared & ~ranked.chosen & known, total, -np.inf).max(-1)
    taken = np.where(ranked.chosen & known, total, np.inf).min(-1)
    return left_out - taken


def rounding_slack(trace: TokenTrace, layer: int, rule: SelectionRule, ranked: Ranked) -> float:
    """More than rounding moves a difference of scores; no score here is steeper than its logit."""
    stored = trace.metadata.routing.get("logit_dtype_in_model", "unknown")
    rounding = logit_rounding(trace.logits[:, layer], stored).max()
    return float(2 * rounding + 8 * rule.unit * np.abs(ranked.score).max())
