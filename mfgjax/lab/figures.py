"""A lab's results in pictures."""

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from mfgjax.lab.differences import METRICS, Results, arms_of, compare, interval, values
from mfgjax.lab.doses import families

_DOSED = (
    "training_max_violation",
    "held_out_loss",
    "congestion_of_tokens",
    "signed_congestion",
    "excess_over_counterfactual",
    "logit_dispersion",
)
_EVERY = 10


def draw_figures(results: Results) -> Iterator[tuple[str, Figure]]:
    """Name and figure of each picture that the results allow."""
    arms = arms_of(results)
    if "none" in arms and len(arms) > 1:
        yield "loss_and_balance", loss_and_balance(results)
    yield "balance_in_training", balance_in_training(results)
    for family in families(results):
        yield f"doses_{family.rule}", dose_response(results, family)


def loss_and_balance(results: Results) -> Figure:
    """Loss against `none`, paired by seed, over MaxVio, with intervals of both."""
    height = max(5.5, 0.17 * len(arms_of(results)))  # room for a line of the legend per arm
    figure = Figure(figsize=(10, height), layout="constrained")
    axes = figure.subplots()
    for number, arm in enumerate(arms_of(results), start=1):
        x = interval(values(results, arm, "training_max_violation"))
        y = compare(results, arm, "none", "held_out_loss")
        if not x.seeds or not y.seeds:
            continue
        ends = [[[max(0, v.mean - v.low)], [max(0, v.high - v.mean)]] for v in (x, y)]
        bars = [np.where(np.isfinite(e), e, 0) for e in ends]
        label = f"{number} {arm}"  # names of dozens of arms would lie on each other
        axes.errorbar(
            x.mean, y.mean, xerr=bars[0], yerr=bars[1], fmt="o", ms=3, lw=0.7, label=label
        )
        place = {"xytext": (3, 3), "textcoords": "offset points"}
        axes.annotate(str(number), (x.mean, y.mean), fontsize=7, **place)
    axes.set_xscale("symlog", linthresh=0.1)  # a power of ten: else a label crowds at 0
    axes.axhline(0, color="grey", lw=0.5)
    axes.set_xlabel("MaxVio above its sampling floor, last steps of training")
    axes.set_ylabel("held-out loss less that of none, nats (paired)")
    figure.legend(loc="outside right upper", fontsize=7)
    return figure


def balance_in_training(results: Results) -> Figure:
    """MaxVio of single batches above its floor, mean over seeds."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    rules: dict[str, str] = {}
    for name, arm in arms_of(results).items():
        rules.setdefault(arm["rule"], name)
    for number, arm in enumerate(rules.values()):
        curves = [
            run["batch_max_violation_every_tenth_step"]
            for run in results["runs"]
            if run["arm"] == arm
        ]
        steps = _EVERY * (1 + np.arange(len(curves[0])))
        style = ("-", "--", ":")[number // 10 % 3]
        axes.plot(steps, np.mean(curves, axis=0), style, lw=1, label=arm)
    axes.set_xlabel("step")
    axes.set_ylabel("MaxVio of a batch above its floor")
    axes.set_yscale("symlog", linthresh=0.1)
    axes.legend(fontsize=6, ncols=2)
    return figure


def dose_response(results: Results, family) -> Figure:
    """Six numbers over the dose, with intervals over seeds."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    for axes, metric in zip(figure.subplots(2, 3).flat, _DOSED, strict=True):
        found = [interval(values(results, arm, metric)) for arm in family.arms.values()]
        doses = np.array(list(family.arms), float)
        known = np.array([x.seeds > 0 for x in found])
        mean = np.array([x.mean for x in found])
        ends = np.array([[x.mean - x.low, x.high - x.mean] for x in found]).T
        ends = np.where(np.isfinite(ends), ends, 0)
        axes.errorbar(doses[known], mean[known], yerr=ends[:, known], fmt="o-", ms=3, lw=1)
        if metric == "congestion_of_tokens" and family.setting == "congestion":
            axes.plot(doses, doses, color="grey", lw=0.7)
            axes.set_yscale("symlog", linthresh=1)
        axes.set_xscale("log")
        axes.set_title(METRICS[metric].label, fontsize=8)
    figure.supxlabel(f"{family.setting} of {family.rule}", fontsize=9)
    return figure
