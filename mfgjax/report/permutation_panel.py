"""Excess over the permutation null, with paired intervals, at the checkpoints with token logits."""

from collections.abc import Iterable, Mapping
from html import escape

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mfgjax.estimate import ExcessCongestion
from mfgjax.report.analysis_tables import AnalysisTable
from mfgjax.report.hover_svg import lines_svg
from mfgjax.report.trajectory_figure import BLUE, GREEN, GREY, VERMILION

_SHOWN = 3
"""Panels at most: first, middle and last checkpoint where there are more."""


def excess_table(found: Mapping[str, ExcessCongestion]) -> AnalysisTable:
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
    return AnalysisTable(
        "permutation_excess", "Excess over the permutation null", pd.DataFrame(rows), note
    )


def excess_figure(found: Mapping[str, ExcessCongestion]) -> Figure:
    """Layers of the first, middle and last checkpoint: congestion, null, excess with intervals."""
    names = list(found)
    if len(names) > _SHOWN:
        names = [names[0], names[len(names) // 2], names[-1]]
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
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
        panel.spines[["top", "right"]].set_visible(False)
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


def hover_excess(found: Mapping[str, ExcessCongestion]) -> str:
    """Congestion and excess by layer with their intervals, one small picture per checkpoint."""
    parts = []
    for checkpoint, one in found.items():
        series = {
            "signed congestion": (one.congestion, np.stack(one.congestion_interval, -1)),
            "excess over the permutation null": (one.excess, np.stack(one.excess_interval, -1)),
        }
        heading = f"Checkpoint {checkpoint}, by layer"
        columns = [str(layer) for layer in range(len(one.layers))]
        label = f"excess congestion, {heading}"
        parts.append(
            f"<h3>{escape(heading)}</h3>" + lines_svg(series, columns, label, _reach([one]))
        )
    return "".join(parts)
