"""Excess over the permutation null, with paired intervals, at the checkpoints with token logits."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mfgjax.estimate.null.permutation_excess import ExcessCongestion, estimate_excess
from mfgjax.report.inputs import Inputs
from mfgjax.report.plot import BLUE, GREEN, GREY, VERMILION, WIDTH, bare
from mfgjax.report.section import Lines, Picture, Section, Table
from mfgjax.report.verdict import estimate, texts_to_tell

_SMALLEST = 1.0
"""Excess that means anything: without balancing it is off by half a unit (`estimate_excess`)."""
_SHOWN = 3
"""Panels at most: first, middle and last checkpoint where there are more."""


def section(inputs: Inputs) -> Section | None:
    """Of every checkpoint whose tokens are there."""
    labels = {
        m.revision: label
        for m, label in zip(inputs.sweep.checkpoints, inputs.sweep.labels, strict=True)
    }
    found = {
        str(labels[trace.metadata.revision]): estimate_excess(trace, level=inputs.confidence)
        for trace in inputs.tokens
        if trace.metadata.revision in labels
    }
    if not found:
        return None
    return Section(
        "Excess over the permutation null",
        verdict=_verdict(found, inputs.tokens[-1].metadata.text_count),
        tables=(_excess_table(found),),
        figures=(
            Picture(
                "permutation_excess",
                "Signed congestion, permutation null and excess by layer",
                lambda: _excess_figure(found),
            ),
        ),
        hover=tuple(_lines(checkpoint, one) for checkpoint, one in found.items()),
    )


def _verdict(found: Mapping[str, ExcessCongestion], texts: int) -> tuple[str, ...]:
    """Explained by the null or not at the last checkpoint, and whether the texts suffice to tell."""
    checkpoint, one = list(found.items())[-1]
    low, high = one.mean_interval
    told = (
        f"Experts' own logits, taken as independent, leave an excess of "
        f"{estimate(one.mean_excess, (low, high))} over the permutation null at checkpoint {checkpoint}"
    )
    if max(abs(low), abs(high)) < _SMALLEST:
        return (f"{told}: less than {_SMALLEST:g} is none, so the null explains the congestion.",)
    if low > _SMALLEST:
        return (f"{told}: the null does not explain the congestion.",)
    if high < -_SMALLEST:
        return (f"{told}: the null explains more congestion than there is.",)
    effect = max(abs(one.mean_excess), _SMALLEST)
    return (f"{told}: not resolved. {texts_to_tell(texts, one.mean_interval, effect)}",)


def _lines(checkpoint: str, one: ExcessCongestion) -> Lines:
    series = {
        "signed congestion": (one.congestion, np.stack(one.congestion_interval, -1)),
        "excess over the permutation null": (one.excess, np.stack(one.excess_interval, -1)),
    }
    columns = [str(layer) for layer in range(len(one.layers))]
    label = f"Checkpoint {checkpoint}: signed congestion and excess by layer"
    return Lines(label, series, columns, joined=False, ends=_reach([one]))


def _excess_table(found: Mapping[str, ExcessCongestion]) -> Table:
    """One row per checkpoint and layer, and the layers' average.

    Args:
        found: by checkpoint, as `mfgjax.estimate.estimate_excess` returns it.
    """
    rows = []
    for checkpoint, one in found.items():
        for index, layer in enumerate(one.layers):
            row = {"checkpoint": checkpoint, "layer": layer, "congestion": one.congestion[index]}
            row["congestion_low"], row["congestion_high"] = (
                bound[index] for bound in one.congestion_interval
            )
            row |= {"null": one.null[index], "excess": one.excess[index]}
            row["excess_low"], row["excess_high"] = (b[index] for b in one.excess_interval)
            row["excludes_zero"] = bool(one.excludes_zero[index])
            rows.append(row)
        average: dict[str, object] = {"checkpoint": checkpoint, "layer": "average of layers"}
        average |= {"excess": one.mean_excess}
        average["excess_low"], average["excess_high"] = one.mean_interval
        average["excludes_zero"] = bool(one.mean_interval[0] > 0 or one.mean_interval[1] < 0)
        rows.append(average)
    note = (
        "Signed congestion, the permutation null (every expert's own logits, experts independent) and their "
        "difference, all corrected for the noise of few texts; the interval of the excess is paired: what a text "
        "does to both cancels; pictures cut long ones at the axis. An excess is any dependence between experts on a token, balancing or not."
    )
    return Table("permutation_excess", "Excess over the permutation null", pd.DataFrame(rows), note)


def _excess_figure(found: Mapping[str, ExcessCongestion]) -> Figure:
    """Layers of the first, middle and last checkpoint: congestion, null, excess with intervals."""
    names = list(found)
    if len(names) > _SHOWN:
        names = [names[0], names[len(names) // 2], names[-1]]
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    ends = _reach(found[name] for name in names)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        one = found[name]
        at = np.arange(len(one.layers))
        series = [
            (one.congestion, one.congestion_interval, "signed (KL)", BLUE, "o", -0.15),
            (one.null, None, "permutation null", VERMILION, "^", 0.0),
            (one.excess, one.excess_interval, "excess", GREEN, "D", 0.15),
        ]
        for values, interval, label, colour, marker, shift in series:
            if interval is not None:
                low, high = np.clip(interval, *ends)
                panel.vlines(at + shift, low, high, color=colour, lw=1.5)
            panel.plot(at + shift, values, marker, color=colour, ms=4, label=label)
        panel.axhline(0, color=GREY, lw=0.8)
        panel.set_title(f"checkpoint {name}", loc="left", fontsize=9)
        panel.set_xticks(at, at)
        panel.set_xlabel("layer")
        bare(panel)
    panels[0].set_ylim(*ends)
    panels[0].set_ylabel("congestion")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=3, loc="outside lower center")
    return figure


def _reach(found: Iterable[ExcessCongestion]) -> tuple[float, float]:
    """An axis for the estimates: an interval that is nearly unbounded would flatten all others."""
    points = np.concatenate([np.ravel([one.congestion, one.null, one.excess]) for one in found])
    points = np.append(points[np.isfinite(points)], 0.0)
    room = 0.4 * (np.ptp(points) or 1.0)
    return float(points.min() - room), float(points.max() + room)
