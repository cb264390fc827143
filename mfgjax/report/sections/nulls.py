"""Excess over the three nulls, with paired intervals, at checkpoints with token logits and the last."""

from collections.abc import Iterable, Mapping

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mfgjax.estimate.null.counterfactual import counterfactual_excess
from mfgjax.estimate.null.dispersion import dispersion_excess
from mfgjax.estimate.null.excess import KEEPS, ExcessCongestion, Null
from mfgjax.estimate.null.permutation import permutation_excess
from mfgjax.report.inputs import Inputs
from mfgjax.report.plot import BLUE, GREEN, GREY, PURPLE, VERMILION, WIDTH, bare
from mfgjax.report.section import Picture, Section, Table
from mfgjax.report.verdict import estimate, texts_to_tell
from mfgjax.trace.schema import StatisticsTrace

_SMALLEST = 1.0
"""Excess that means anything: without balancing it is off by half a unit (`permutation_excess`)."""
_NO_TOKENS = "no token logits"
_NOISE = "within its noise of a uniform load"
_SHOWN = 3
"""Panels at most: first, middle and last checkpoint where there are more."""
_DRAWN: dict[Null, tuple[str, str, float]] = {
    "dispersion": (VERMILION, "^", -0.08),
    "permutation": (GREEN, "D", 0.08),
    "counterfactual": (PURPLE, "s", 0.24),
}

_Excesses = Mapping[Null, ExcessCongestion]
"""Of one checkpoint: the dispersion's always, the others from token logits."""


def section(inputs: Inputs) -> Section:
    """Of every checkpoint whose tokens are there, and of the last."""
    found = dict(_excesses(inputs))
    return Section(
        "Excess over the nulls",
        verdict=_verdict(found, inputs.sweep.checkpoints[-1].text_count),
        tables=(_excess_table(found),),
        figures=(
            Picture(
                "excess",
                "Signed congestion and its excess over each null by layer",
                lambda: _excess_figure(found),
            ),
        ),
    )


def _excesses(inputs: Inputs) -> Iterable[tuple[str, _Excesses]]:
    sweep, level = inputs.sweep, inputs.confidence
    tokens = {trace.metadata.revision: trace for trace in inputs.tokens}
    for index, (own, label) in enumerate(zip(sweep.checkpoints, sweep.labels, strict=True)):
        trace = tokens.get(own.revision)
        if trace is not None:
            yield (
                str(label),
                {
                    "dispersion": dispersion_excess(trace, level=level),
                    "permutation": permutation_excess(trace, level=level),
                    "counterfactual": counterfactual_excess(trace, level=level),
                },
            )
        elif index == len(sweep.checkpoints) - 1:
            sums = jax.tree.map(lambda leaf: leaf[-1], sweep.statistics)
            found = dispersion_excess(StatisticsTrace(own, sums), level=level)
            yield str(label), {"dispersion": found}


def _verdict(found: Mapping[str, _Excesses], texts: int) -> tuple[str, ...]:
    """Explained by the null or not, where last there were token logits, and whether the texts suffice."""
    with_tokens = [(name, each) for name, each in found.items() if "permutation" in each]
    if not with_tokens:
        return ()
    checkpoint, each = with_tokens[-1]
    one = each["permutation"]
    low, high = map(float, one.mean_interval)
    told = (
        f"Experts' own logits, taken as independent, leave an excess of "
        f"{estimate(float(one.mean_excess), (low, high))} over the permutation null at checkpoint {checkpoint}"
    )
    choice = _of_the_choice(each["counterfactual"])
    if max(abs(low), abs(high)) < _SMALLEST:
        return (
            f"{told}: less than {_SMALLEST:g} is none, so the null explains the congestion.",
            choice,
        )
    if low > _SMALLEST:
        return (f"{told}: the null does not explain the congestion.", choice)
    if high < -_SMALLEST:
        return (f"{told}: the null explains more congestion than there is.", choice)
    effect = max(abs(float(one.mean_excess)), _SMALLEST)
    return (f"{told}: not resolved. {texts_to_tell(texts, (low, high), effect)}", choice)


def _of_the_choice(one: ExcessCongestion) -> str:
    """What a selection bias, or anything else that moves the choice alone, adds."""
    known = np.isfinite(one.excess)
    if not known.any():
        return "Whether anything acts on the choice alone is lost in the noise of the load."
    if not one.excess[known].any():
        return (
            "Choices are the top-K of the router's own logits: no selection bias acts, and its congestion is a "
            "function of the distribution of its logits alone (counterfactual excess 0)."
        )
    added = estimate(float(one.mean_excess), [float(end) for end in one.mean_interval])
    return (
        "What acts on the choice alone (a selection bias, noise, groups, capacity) makes "
        f"{added} of the signed congestion (counterfactual excess)."
    )


def _excess_table(found: Mapping[str, _Excesses]) -> Table:
    """One row per checkpoint and layer, and the layers' average.

    Args:
        found: by checkpoint and null, as `dispersion_excess` and the other two return them.
    """
    rows = [
        _row(checkpoint, each, layer)
        for checkpoint, each in found.items()
        for layer in (*range(len(each["dispersion"].layers)), None)
    ]
    kept = "; ".join(f"{name}: {what}" for name, what in KEEPS.items())
    note = (
        "Signed congestion, and what of it each null leaves unexplained. A null is the congestion of a router "
        f"without balancing that keeps of the token logits ({kept}). All are corrected for the noise of few texts; "
        "the interval of an excess is paired: what a text does to both cancels; the picture cuts long ones at its axis. "
        "An excess over the permutation null is any dependence between experts on a token, balancing or not; over "
        "the counterfactual null it is what acts on the choice alone, and 0 for a router that takes the top-K of "
        "its own logits."
    )
    frame = pd.DataFrame(rows)
    shown = ("checkpoint", "layer", "congestion", *(f"{name}_excess" for name in KEEPS))
    shown += ("missing",) if frame.missing.any() else ()
    return Table("excess", "Excess over the nulls", frame, note, shown)


def _row(checkpoint: str, each: _Excesses, layer: int | None) -> dict[str, object]:
    """Of one layer, or of the average of layers; a dash, and why, where there is no excess."""
    own = each["dispersion"]
    row: dict[str, object] = {"checkpoint": checkpoint}
    row["layer"] = "average of layers" if layer is None else own.layers[layer]
    if layer is not None:
        row |= _with_ends("congestion", own.congestion[layer], own.congestion_interval, layer)
    missing = {}
    for name in KEEPS:
        if name not in each:
            missing[name] = _NO_TOKENS
            row |= {f"{name}_excess{end}": np.nan for end in ("", "_low", "_high")}
            continue
        one = each[name]
        if layer is None:
            excess, ends = one.mean_excess, one.mean_interval
        else:
            row |= _with_ends(f"{name}_null", one.null[layer], one.null_interval, layer)
            excess, ends = one.excess[layer], one.excess_interval
        told = _with_ends(f"{name}_excess", excess, ends, layer)
        row |= told
        low, high = told[f"{name}_excess_low"], told[f"{name}_excess_high"]
        row[f"{name}_excludes_zero"] = bool(low > 0 or high < 0)
        if not np.isfinite(excess):
            missing[name] = _NOISE
    reasons = dict.fromkeys(missing.values())
    row["missing"] = "; ".join(
        f"{', '.join(n for n in missing if missing[n] == reason)}: {reason}" for reason in reasons
    )
    return row


def _with_ends(name: str, value, ends, layer: int | None) -> dict[str, float]:
    low, high = ends if layer is None else (bound[layer] for bound in ends)
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def _excess_figure(found: Mapping[str, _Excesses]) -> Figure:
    """Layers of the first, middle and last checkpoint: congestion and excesses with intervals."""
    names = list(found)
    if len(names) > _SHOWN:
        names = [names[0], names[len(names) // 2], names[-1]]
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    ends = _reach(found[name] for name in names)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    handles = {}
    for panel, name in zip(panels, names, strict=True):
        own = found[name]["dispersion"]
        at = np.arange(len(own.layers))
        series = [(own.congestion, own.congestion_interval, "signed (KL)", BLUE, "o", -0.24)]
        for null, one in found[name].items():
            colour, marker, shift = _DRAWN[null]
            label = f"excess over {null}"
            series.append((one.excess, one.excess_interval, label, colour, marker, shift))
        for values, interval, label, colour, marker, shift in series:
            low, high = np.clip(interval, *ends)
            panel.vlines(at + shift, low, high, color=colour, lw=1.5)
            (handles[label],) = panel.plot(
                at + shift, values, marker, color=colour, ms=4, label=label
            )
        panel.axhline(0, color=GREY, lw=0.8)
        panel.set_title(f"checkpoint {name}", loc="left", fontsize=9)
        panel.set_xticks(at, at)
        panel.set_xlabel("layer")
        bare(panel)
    panels[0].set_ylim(*ends)
    panels[0].set_ylabel("congestion")
    figure.legend(
        handles.values(),
        handles.keys(),
        frameon=False,
        fontsize=8,
        ncols=2,
        loc="outside lower center",
    )
    return figure


def _reach(found: Iterable[_Excesses]) -> tuple[float, float]:
    """An axis for the estimates: an interval that is nearly unbounded would flatten all others."""
    every = [one for each in found for one in each.values()]
    points = np.concatenate([np.ravel([one.congestion, one.excess]) for one in every])
    points = np.append(points[np.isfinite(points)], 0.0)
    room = 0.4 * (np.ptp(points) or 1.0)
    return float(points.min() - room), float(points.max() + room)
