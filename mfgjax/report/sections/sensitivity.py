"""Does the trajectory survive another quality or objective? Figure 2 of the paper, for your traces."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mfgjax.estimate.inference.sensitivity import SensitivityTable, layer_average
from mfgjax.report.inputs import Inputs
from mfgjax.report.plot import (
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILION,
    WIDTH,
    bare,
    fit_axis,
    training_axis,
)
from mfgjax.report.reference import published
from mfgjax.report.section import HeatMap, Picture, Section, Table

_STYLE = {
    "mean": (BLUE, "o", "-"),
    "median": (VERMILION, "^", "--"),
    "trimmed": (GREEN, "s", "-."),
    "split-half": (PURPLE, "D", ":"),
    "log-probability": (GREY, "x", "-"),
}
_TITLES = {"l1": "effective congestion (Definition 3.1)", "kl": "signed congestion (KL)"}


def section(inputs: Inputs) -> Section:
    """The layer average under other qualities and objectives."""
    found, labels = inputs.sensitivity, list(inputs.sweep.labels)
    steps = [np.nan if m.step is None else m.step for m in inputs.sweep.checkpoints]
    rows = [f"{o}, {q}" for o, q in zip(found.objective, found.quality, strict=True)]
    values = np.stack([layer_average(row) for row in found.congestion])
    return Section(
        "Sensitivity",
        tables=_robustness_tables(found, labels),
        figures=(
            Picture(
                "robustness",
                "Layer averages under other qualities",
                lambda: _robustness_figure(found, np.array(steps, float)),
            ),
        ),
        heat_maps=(HeatMap("Layer average by objective and quality", values, rows, labels),),
    )


def _robustness_tables(table: SensitivityTable, checkpoints: Sequence[str]) -> tuple[Table, ...]:
    """How every choice compares, the trajectories behind it, and what the paper reports.

    Args:
        table: as `estimate_sensitivity` returns it.
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
        Table(
            "robustness",
            "Objectives and qualities against quality mean",
            frame,
            note,
            expendable=("lowest", "first"),
        ),
        Table("robustness_trajectories", "The trajectories compared", paths),
        published("figure2_robustness", "Figure 2, OLMoE-1B-7B"),
    )


def _robustness_figure(table: SensitivityTable, steps: np.ndarray) -> Figure:
    """Trajectories under every quality, one panel for each of the l1 and kl objectives."""
    x, scale = training_axis(steps)
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
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
        bare(panel)
    fit_axis(panels[-1], x, scale)
    panels[-1].set_xlabel("training step" if np.isfinite(steps).all() else "checkpoint")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=5, loc="outside lower center")
    return figure


def sensitivity_frame(table: SensitivityTable) -> pd.DataFrame:
    """One row per objective and quality: the layer average's path, and how it compares.

    `correlation`, `rank_correlation` and `shift` are with quality mean under the same objective;
    the two columns that name the reference are with it.
    """
    paths = [pd.Series(layer_average(row)).dropna() for row in table.congestion]
    reference = "_".join(table.reference).replace("-", "_")
    return pd.DataFrame(
        {
            "objective": table.objective,
            "quality": table.quality,
            "checkpoints": table.checkpoints,
            "first": [path.iloc[0] if len(path) else np.nan for path in paths],
            "lowest": [path.min() for path in paths],
            "highest": [path.max() for path in paths],
            "last": [path.iloc[-1] if len(path) else np.nan for path in paths],
            "correlation": np.concatenate([own.correlation for own in table.with_mean]),
            "rank_correlation": np.concatenate([own.rank_correlation for own in table.with_mean]),
            "shift": np.concatenate([own.shift for own in table.with_mean]),
            f"correlation_with_{reference}": table.with_reference.correlation,
            f"rank_correlation_with_{reference}": table.with_reference.rank_correlation,
            "unsolved": table.unsolved,
        }
    )
