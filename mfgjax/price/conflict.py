"""Where no bias explains all choices: how many tokens must be left out, and a guess why.

The least number is NP-hard to find, so it is bounded. From above: a bias is fitted by a smooth hinge on
how far each token's choices are from the top-K, then moved to the middle of what the nearest tokens that
go together allow, until no more are explained; leaving the others out ends the conflict. From below: for a pair of
experts the least number is a minimum over one threshold, exact; the largest over the worst pairs counts.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from mfgjax.price.bounds import reveal_from_bounds
from mfgjax.price.scores import Ranked, ranked_tokens, rounding_slack, shortfall
from mfgjax.trace.choice_bound import SCORES, SelectionRule, choice_bound_of
from mfgjax.trace.schema import TokenTrace

_PAIRS = 32
_ROUNDS = 3
_BFLOAT16, _FLOAT16 = 2.0**-8, 2.0**-11


class Conflict(NamedTuple):
    """One layer whose choices no bias explains.

    Attributes:
        least_share: proven: at least this share of tokens must be left out.
        share: enough: without these tokens a bias explains all others.
        bias: that bias.
        reason: "capacity", "another score", "groups", "rounding" or "noise at selection": a guess, the
            first of them that ends the conflict when allowed for; noise is what remains.
        detail: what was tried, in words.
    """

    least_share: float
    share: float
    bias: Float[np.ndarray, " expert"]
    reason: str
    detail: str


def explain_conflict(trace: TokenTrace, layer: int, rule: SelectionRule) -> Conflict:
    """Bounds on the share of tokens that no bias explains, and a guess why. On the host.

    Args:
        trace: of tokens.
        layer: its number.
        rule: how it ranks experts.
    """
    ranked = ranked_tokens(trace, layer, rule)
    slack = rounding_slack(trace, layer, rule, ranked)
    bias, share = _fit(ranked, trace, layer, rule, slack)
    bound = choice_bound_of(trace, layer, 1, rule)[0]
    least = max(_least_share(ranked, bound, slack), 1 / len(ranked.score))
    reason, detail = _guess(trace, layer, rule, share)
    return Conflict(min(least, share), share, bias, reason, detail)


def _fit(ranked: Ranked, trace: TokenTrace, layer: int, rule: SelectionRule, slack: float):
    """A bias that explains many tokens, and the share that it does not."""
    scale = 0.05 * ranked.score.std(-1).mean() + 1e-12
    others = np.where(ranked.compared & ~ranked.chosen, ranked.score, -np.inf)
    taken = np.where(ranked.chosen, ranked.score, np.inf)
    rows = np.arange(len(others))

    def loss(bias):
        best, worst = (others + bias).argmax(-1), (taken + bias).argmin(-1)
        gap = (others + bias)[rows, best] - (taken + bias)[rows, worst]
        gap = np.where(np.isfinite(gap), gap, -1)
        inside = np.clip(gap, 0, scale)
        value = np.where(gap > scale, gap - scale / 2, inside**2 / (2 * scale)).mean()
        pull = np.bincount(best, inside / scale, len(bias))
        pull -= np.bincount(worst, inside / scale, len(bias))
        return value, pull / len(rows)

    bias = minimize(loss, np.zeros(others.shape[1]), jac=True, method="L-BFGS-B").x
    best = bias, float((shortfall(ranked, bias) > slack).mean())
    for _ in range(_ROUNDS):
        bias = _middle_of_most(shortfall(ranked, bias), trace, layer, rule, bias)
        share = float((shortfall(ranked, bias) > slack).mean())
        if share >= best[1]:
            break
        best = bias, share
    return best[0] - best[0].mean(), best[1]


def _middle_of_most(gap, trace: TokenTrace, layer: int, rule: SelectionRule, otherwise):
    """The middle of what the nearest to explained tokens allow, as many as go together."""
    place = gap.argsort(kind="stable").argsort(kind="stable")
    few, many = 0, len(gap) + 1  # of the nearest: few go together, many do not
    found = otherwise
    while many - few > 1:
        count = (few + many) // 2 if few else max(int((gap <= 0).sum()), 1)
        count = min(max(count, few + 1), many - 1)
        text = np.where(place < count, 0, -1)  # -1 counts nowhere
        bound = choice_bound_of(dataclasses.replace(trace, text=text), layer, 1, rule)
        revealed = reveal_from_bounds(bound, [rule], [""])
        if revealed.conflict[0]:
            many = count
        else:
            few = count
            two_sided = revealed.two_sided[0]
            shift = otherwise[two_sided].mean() if two_sided.any() else 0
            near = np.where(two_sided, np.nan_to_num(revealed.bias[0]) + shift, otherwise)
            found = (revealed.difference_low[0] + near).max(-1)  # keeps one-sided bounds too
    return found


def _least_share(ranked: Ranked, bound: np.ndarray, slack: float) -> float:
    """The exact share for the worst pairs of experts, the largest of them."""
    worst = np.triu(bound + bound.T, 1)
    pairs = np.argsort(-worst, axis=None)[:_PAIRS]
    most = 0
    for i, j in zip(*np.unravel_index(pairs, worst.shape), strict=True):
        if not worst[i, j] > 0:
            break
        gap = ranked.score[:, j] - ranked.score[:, i]
        least = np.sort(gap[ranked.chosen[:, i] & ~ranked.chosen[:, j] & ranked.compared[:, j]])
        highest = np.sort(gap[ranked.chosen[:, j] & ~ranked.chosen[:, i] & ranked.compared[:, i]])
        at = np.concatenate([least, highest])  # b_i - b_j at each of the bounds
        broken = len(least) - np.searchsorted(least, at + slack, "right")
        broken = broken + np.searchsorted(highest, at - slack, "left")
        most = max(most, int(broken.min()))
    return most / len(ranked.score)


def _guess(trace: TokenTrace, layer: int, rule: SelectionRule, share: float) -> tuple[str, str]:
    if trace.metadata.routing.get("capacity") or trace.dispatched is not None:
        return "capacity", "the router has a capacity: experts that were full look dear"
    for score in SCORES:
        other = dataclasses.replace(rule, score=score, function=None)
        if score != rule.score and _ends(trace, layer, other):
            return "another score", f"a bias added to {score} explains every choice"
    for groups in _group_limits(trace.choices[:, layer].astype(int), trace.metadata.experts):
        if _ends(trace, layer, dataclasses.replace(rule, groups=groups)):
            return "groups", f"a choice among {groups[1]} of {groups[0]} groups explains every one"
    for name, unit in (("float16", _FLOAT16), ("bfloat16", _BFLOAT16)):
        if unit > rule.unit and _ends(trace, layer, dataclasses.replace(rule, unit=unit)):
            return "rounding", f"a sum rounded to {name} explains every choice"
    return "noise at selection", f"{share:.2%} of tokens are not explained by the fitted bias"


def _ends(trace: TokenTrace, layer: int, rule: SelectionRule) -> bool:
    bound = choice_bound_of(trace, layer, 1, rule)
    return not reveal_from_bounds(bound, [rule], [""]).conflict[0]


def _group_limits(choices: np.ndarray, experts: int):
    """Numbers of equal groups of neighbours that no token's choices spread over as they could."""
    for count in range(2, experts // 2 + 1):
        if experts % count:
            continue
        used = np.zeros((len(choices), count), bool)
        np.put_along_axis(used, choices // (experts // count), True, axis=-1)
        most = int(used.sum(-1).max())
        if most < min(count, choices.shape[1]):
            yield count, most
