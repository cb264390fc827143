"""Which numbers answer a dose, and which only the scale of the logits?

A family is one rule at several values of one setting. A number answers the dose if its rank correlation with
the dose, taken within each seed, is on one side of 0 over seeds. It answers the scale if the z-loss, which
shrinks logits and balances nothing, moves it. Some hundred such questions are asked at once: what answers is
said with Holm's correction over all of them.

Loss at equal balance is read off the doses of the Switch loss: of each seed their losses are joined by straight
lines over MaxVio, and the line is taken where an arm is as even. A seed whose arm is more or less even than
the whole sweep is left out: nothing is extrapolated.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from mfgjax.lab.differences import (
    METRICS,
    Interval,
    Results,
    arms_of,
    chance,
    compare,
    holm,
    interval,
    values,
)

SCALE_ARM = "z-loss-coefficient=0.01"
ANSWERS = tuple(name for name in METRICS if name not in ("dropped_share", "price_in_force"))


SWEPT = "auxiliary"
FEWEST = 3
"""Doses that make a sweep."""


class Family(NamedTuple):
    """Attributes:
    rule, setting: what is dosed.
    arms: name of the arm of each dose, rising.
    """

    rule: str
    setting: str
    arms: dict[float, str]


class Answer(NamedTuple):
    """Attributes:
    metric: its name.
    to_dose: rank correlation with the dose of each family, by rule, over seeds.
    to_scale: the change under the z-loss.
    """

    metric: str
    to_dose: dict[str, Interval]
    to_scale: Interval


def families(results: Results) -> list[Family]:
    """Rules that were run at three doses or more of one setting."""
    found: dict[tuple[str, str], dict[float, str]] = {}
    for name, arm in arms_of(results).items():
        if len(arm["settings"]) == 1:
            ((setting, dose),) = arm["settings"].items()
            found.setdefault((arm["rule"], setting), {})[dose] = name
    return [
        Family(rule, setting, dict(sorted(arms.items())))
        for (rule, setting), arms in found.items()
        if len(arms) >= 3
    ]


def rank_correlation(results: Results, family: Family, metric: str) -> Interval:
    """Spearman's, of each seed, over seeds; a number that does not move at all has correlation 0."""
    by_seed: dict[int, list[tuple[float, float]]] = {}
    for dose, arm in family.arms.items():
        for seed, value in values(results, arm, metric).items():
            by_seed.setdefault(seed, []).append((dose, value))
    found = []
    for pairs in by_seed.values():
        if len(pairs) < 3:
            continue
        doses, numbers = np.array(pairs).T
        ranks = stats.rankdata(doses), stats.rankdata(numbers)
        still = np.ptp(numbers) == 0
        found.append(0.0 if still else float(np.corrcoef(*ranks)[0, 1]))
    return interval(found)


def answers(results: Results) -> list[Answer]:
    """Every metric's answer to every family and to the scale of the logits."""
    doses = families(results)
    return [
        Answer(
            metric,
            {family.rule: rank_correlation(results, family, metric) for family in doses},
            compare(results, SCALE_ARM, "none", metric),
        )
        for metric in ANSWERS
    ]


def verdicts(found: list[Answer]) -> list[str]:
    """What each number answers, in words; empty where nothing tells. True of all numbers together (Holm)."""
    asked = [[*answer.to_dose.values(), answer.to_scale] for answer in found]
    corrected = iter(holm([chance(one) for line in asked for one in line]))
    said = []
    for answer, line in zip(found, asked, strict=True):
        sure = [next(corrected) <= 0.05 for _ in line]
        words = [
            f"{rule} ({'rises' if one.mean > 0 else 'falls'})"
            for (rule, one), tells in zip(answer.to_dose.items(), sure, strict=False)
            if tells
        ]
        if sure[-1]:  # the z-loss lowers the scale
            words.append(f"scale ({'falls' if answer.to_scale.mean > 0 else 'rises'} with it)")
        said.append(", ".join(words))
    return said


def loss_at_equal_balance(results: Results, arm: str) -> Interval:
    """Held-out loss of an arm less that of the sweep at the same MaxVio, paired by seed."""
    sweep = [
        name
        for name, found in arms_of(results).items()
        if found["rule"] == SWEPT and "alpha" in found["settings"]
    ]
    if len(sweep) < FEWEST:
        return interval([])
    level, loss = (
        values(results, arm, "training_max_violation"),
        values(results, arm, "held_out_loss"),
    )
    swept = [
        (values(results, name, "training_max_violation"), values(results, name, "held_out_loss"))
        for name in sweep
    ]
    found = []
    for seed in sorted(set(level) & set(loss)):
        points = sorted((v[seed], w[seed]) for v, w in swept if seed in v and seed in w)
        if len(points) < FEWEST:
            continue
        even, losses = np.array(points).T
        if even[0] <= level[seed] <= even[-1]:
            found.append(loss[seed] - float(np.interp(level[seed], even, losses)))
    return interval(found)
