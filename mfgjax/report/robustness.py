"""Does the trajectory survive another quality or objective? Figure 2 of the paper, for your traces."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mfgjax.estimate import SensitivityTable
from mfgjax.estimate.sensitivity import layer_average
from mfgjax.report.analysis_tables import AnalysisTable, published
from mfgjax.report.sensitivity import sensitivity_frame
from mfgjax.report.trajectory_figure import BLUE, GREEN, GREY, VERMILION, fit_axis, training_axis

_STYLE = {
    "mean": (BLUE, "o", "-"),
    "median": (VERMILION, "^", "--"),
    "trimmed": (GREEN, "s", "-."),
    "split-half": ("#CC79A7", "D", ":"),
    "log-probability": (GREY, "x", "-"),
}
_TITLES = {"l1": "effective congestion (Definition 3.1)", "kl": "signed congestion (KL)"}


def robustness_tables(
    table: SensitivityTable, checkpoints: Sequence[str]
) -> tuple[AnalysisTable, ...]:
    """How every choice compares, the trajectories behind it, and what the paper reports.

    Args:
        table: as `mfgjax.report.sensitivity.sensitivity_of_traces` returns it.
        checkpoints: labels of the checkpoints.
    """
    frame = sensitivity_frame(table)
    located = frame[
        (frame.objective == "l1") & frame.quality.isin(["median", "trimmed", "split-half"])
    ]
    known = located.correlation.dropna()
    note = (
        "Layer averages. correlation, rank_correlation and shift: with quality mean, same objective, over the "
        "checkpoints that both have; - where a trajectory is constant or shares fewer than three. median and "
        "trimmed need token logits. A correlation hides a shift, and three checkpoints make any one large."
    )
    if len(known):
        worst = located.loc[known.idxmin()]
        note += (
            f" Lowest for Definition 3.1 among the paper's qualities: r = {worst.correlation:.2f} "
            f"({worst.quality}, {worst.checkpoints} checkpoints); published: r >= 0.89."
        )
    else:
        note += " Definition 3.1 is constant here: there is nothing to correlate."
    average = {
        f"{objective} {quality}": layer_average(row)
        for objective, quality, row in zip(
            table.objective, table.quality, table.congestion, strict=True
        )
    }
    paths = pd.DataFrame({"checkpoint": list(checkpoints)} | average)
    return (
        AnalysisTable("robustness", "Objectives and qualities against quality mean", frame, note),
        AnalysisTable("robustness_trajectories", "The trajectories compared", paths),
        published("figure2_robustness", "Figure 2, OLMoE-1B-7B"),
    )


def robustness_figure(table: SensitivityTable, steps: np.ndarray) -> Figure:
    """Trajectories under every quality, one panel for each of the l1 and kl objectives."""
    x, scale = training_axis(steps)
    figure = Figure(figsize=(7.0, 5.2), layout="constrained")
    panels = figure.subplots(len(_TITLES), 1, sharex=True)
    for panel, (objective, title) in zip(panels, _TITLES.items(), strict=True):
        for name, quality, row in zip(
            table.objective, table.quality, table.congestion, strict=True
        ):
            if name != objective:
                continue
            colour, marker, line = _STYLE[quality]
            path = layer_average(row)
            known = np.isfinite(path)
            if not known.any():
                continue
            # Qualities known at a few checkpoints only are marks: a line would invent the rest.
            line = line if known.all() else "none"
            panel.plot(
                x[known],
                path[known],
                ls=line,
                marker=marker,
                color=colour,
                ms=4,
                label=quality,
                clip_on=False,
            )
        panel.axhline(0, color=GREY, lw=0.8)
        panel.set_ylabel(title.replace(" (", "\n("))
        panel.spines[["top", "right"]].set_visible(False)
    fit_axis(panels[-1], x, scale)
    panels[-1].set_xlabel("training step" if np.isfinite(steps).all() else "checkpoint")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=5, loc="outside lower center")
    return figure
