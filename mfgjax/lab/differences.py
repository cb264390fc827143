"""Numbers of a lab by arm and seed, and their differences, paired by seed, with intervals.

Runs of one seed start from the same weights and see the same data in the same order, so that a difference
of two arms is one of rules. Intervals are Student's t over seeds: five seeds are few, and the interval knows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

Results = Mapping[str, Any]
BySeed = dict[int, float]


class Metric(NamedTuple):
    """Attributes:
    label: with its unit.
    of: its value, from the measures of a run.
    digits: shown after the point.
    """

    label: str
    of: Callable[[Mapping[str, Any]], float]
    digits: int = 3


def _mean(name: str) -> Callable[[Mapping[str, Any]], float]:
    def of(run: Mapping[str, Any]) -> float:
        values = np.array(run.get(name) or [np.nan], float)
        return float(values.mean())

    return of


def _above(name: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda run: _mean(name)(run) - run[f"{name}_floor"]


METRICS: dict[str, Metric] = {
    "held_out_loss": Metric("held-out loss, nats", lambda run: run["held_out_loss"], 4),
    "training_max_violation": Metric("MaxVio above its floor", _above("training_max_violation")),
    "batch_max_violation": Metric(
        "MaxVio of a batch above its floor", _above("batch_max_violation")
    ),
    "max_violation": Metric("held-out MaxVio above its floor", _above("max_violation")),
    "entropy": Metric("entropy of the load, over log M", _mean("entropy"), 4),
    "dead_experts": Metric("dead experts", _mean("dead_experts"), 1),
    "congestion_of_tokens": Metric("γ_token", _mean("congestion_of_tokens"), 1),
    "price_slope": Metric("slope of the revealed price", _mean("price_slope"), 1),
    "price_in_force": Metric("slope of the stored price in training", _mean("price_in_force"), 1),
    "signed_congestion": Metric("signed γ", _mean("signed_congestion"), 1),
    "excess_over_dispersion": Metric("excess over dispersion", _mean("excess_over_dispersion"), 1),
    "excess_over_permutation": Metric("over permutation", _mean("excess_over_permutation"), 1),
    "excess_over_counterfactual": Metric(
        "over counterfactual", _mean("excess_over_counterfactual"), 1
    ),
    "price_spread": Metric("spread of the price, logits", _mean("price_spread"), 2),
    "logit_dispersion": Metric("dispersion of the logits", _mean("logit_dispersion"), 2),
    "logit_mean_spread": Metric("spread of the mean logits", _mean("logit_mean_spread"), 2),
    "domain_information": Metric("information about the domain, nats", _mean("domain_information")),
    "byte_class_information": Metric(
        "about the class of the byte", _mean("byte_class_information")
    ),
    "co_activation": Metric("co-activation", _mean("co_activation")),
    "masking_mean": Metric("loss added by taking out an expert, mean", _mean("masking_mean"), 4),
    "masking_largest": Metric("largest", _mean("masking_largest"), 3),
    "dropped_share": Metric("choices dropped", lambda run: run["dropped_share"]),
}


class Interval(NamedTuple):
    """A mean over seeds with its t interval; infinite ends with one seed, NaN with none."""

    mean: float
    low: float
    high: float
    seeds: int

    def text(self, digits: int = 3) -> str:
        """`mean [low, high]`."""
        if not self.seeds:
            return "-"
        if self.seeds == 1:
            return f"{self.mean:.{digits}f} (1 seed)"
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def arms_of(results: Results) -> dict[str, dict[str, Any]]:
    """Arms that were measured, in order, with rule and settings."""
    found: dict[str, dict[str, Any]] = {}
    for run in results["runs"]:
        found.setdefault(run["arm"], {"rule": run["rule"], "settings": run["settings"]})
    return found


def values(results: Results, arm: str, metric: str) -> BySeed:
    """The metric of each seed of an arm; without seeds where it is no number."""
    found = {r["seed"]: METRICS[metric].of(r) for r in results["runs"] if r["arm"] == arm}
    return {seed: value for seed, value in found.items() if np.isfinite(value)}


def interval(sample: Mapping[int, float] | list[float], level: float = 0.95) -> Interval:
    """Mean and t interval."""
    numbers = np.array(list(sample.values()) if isinstance(sample, Mapping) else sample, float)
    if not len(numbers):
        return Interval(np.nan, np.nan, np.nan, 0)
    if len(numbers) == 1:
        return Interval(float(numbers[0]), -np.inf, np.inf, 1)
    reach = stats.t.ppf(0.5 + level / 2, len(numbers) - 1) * stats.sem(numbers)
    mean = float(numbers.mean())
    return Interval(mean, mean - float(reach), mean + float(reach), len(numbers))


def difference(a: BySeed, b: BySeed, level: float = 0.95) -> Interval:
    """`a - b` over the seeds that both have."""
    return interval([a[seed] - b[seed] for seed in sorted(set(a) & set(b))], level)


def chance(found: Interval, null: float = 0.0) -> float:
    """p-value of the t-test that an interval of 95% stands for: how often seeds alone lie as far from `null`."""
    if found.seeds < 2:
        return 1.0
    error = (found.high - found.mean) / stats.t.ppf(0.975, found.seeds - 1)
    away = abs(found.mean - null)
    if error == 0:  # no seed differs from another
        return float(away == 0)
    return float(2 * stats.t.sf(away / error, found.seeds - 1))


def holm(chances: Sequence[float]) -> list[float]:
    """p-values of many claims, corrected so that those at or below 0.05 hold together in 95% of cases.

    Whatever their dependence (Holm, Scandinavian Journal of Statistics, 1979).
    """
    values = np.asarray(chances, float)
    order = np.argsort(values)
    steps = (len(values) - np.arange(len(values))) * values[order]
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()


def compare(results: Results, arm: str, other: str, metric: str) -> Interval:
    """The metric of one arm less that of another."""
    return difference(values(results, arm, metric), values(results, other, metric))
