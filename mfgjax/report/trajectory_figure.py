"""The trajectory as a picture, in the manner of the paper's Figure 1, with its null beside it."""

from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mfgjax.report.whole_file import whole_file

# Okabe and Ito's colour-blind safe palette.
BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
LEAST_TOP = 5.0
"""Smallest upper end of the congestion axis: a dormant run must look dormant."""

PHASE_COLOURS = {
    "dormant": "#EEEEEE",
    "surge": "#F7D9A8",
    "stabilization": "#CFE6DA",
    "relaxation": "#D3E2F2",
}


def trajectory_figure(dataset: xr.Dataset) -> Figure:
    """Three panels over training: Definition 3.1, signed estimate with its null, load and logits.

    Args:
        dataset: as `mfgjax.track` returns it.
    """
    x, scale = training_axis(dataset.step.values)
    figure = Figure(figsize=(7.0, 8.2), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    _definition_panel(axes[0], x, dataset)
    _signed_panel(axes[1], x, dataset)
    _router_panel(axes[2], x, dataset)
    fit_axis(axes[-1], x, scale)
    for panel in axes:
        _shade_phases(panel, x, dataset, named=panel is axes[0])
        panel.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("training step" if np.isfinite(dataset.step).all() else "checkpoint")
    name = Path(str(dataset.model)).name
    axes[0].set_title(
        f"{name}: M = {dataset.experts}, top-{dataset.top_k}, {dataset.layer.size} MoE layers, "
        f"{dataset.texts} texts",
        loc="left",
        fontsize=10,
        pad=18,  # room for the names of the phases
    )
    return figure


def save_trajectory_figure(dataset: xr.Dataset, folder: Path) -> list[Path]:
    """Write `trajectory.png` and `trajectory.svg` into `folder`."""
    figure = trajectory_figure(dataset)
    paths = [folder / "trajectory.png", folder / "trajectory.svg"]
    for path in paths:
        with whole_file(path) as partial:
            figure.savefig(partial, format=path.suffix[1:], dpi=160)
    return paths


def training_axis(steps: np.ndarray) -> tuple[np.ndarray, dict]:
    """Places of the checkpoints and the scale of the axis; NaN steps are placed in order."""
    steps = np.asarray(steps, dtype=float)
    if not np.isfinite(steps).all():
        return np.arange(len(steps), dtype=float), {"value": "linear"}
    positive = steps[steps > 0]
    if len(positive) > 1 and positive.max() / positive.min() > 30:
        return steps, {"value": "symlog", "linthresh": positive.min(), "linscale": 0.3}
    return steps, {"value": "linear"}


def fit_axis(panel: Axes, x: np.ndarray, scale: dict) -> None:
    """Give `panel` the scale of `training_axis`, with ticks that do not collide."""
    panel.set_xscale(**scale)
    if scale["value"] == "symlog":  # the ticks between zero and the first checkpoint would collide
        decades = 10.0 ** np.arange(np.ceil(np.log10(scale["linthresh"])), np.log10(x[-1]) + 1)
        panel.set_xticks([0, *decades[decades <= x[-1]]])
    panel.set_xlim(x[0], x[-1])


def _band(
    panel: Axes, x, dataset: xr.Dataset, name: str, colour: str, label: str, style="-"
) -> None:
    panel.plot(
        x, dataset[f"mean_{name}"], style, color=colour, lw=1.8, marker="o", ms=3, label=label
    )
    interval = f"mean_{name}_interval"
    if interval in dataset:
        panel.fill_between(x, *dataset[interval].values.T, color=colour, alpha=0.22, lw=0)


def _definition_panel(panel: Axes, x, dataset: xr.Dataset) -> None:
    panel.plot(x, dataset.congestion, color=GREY, lw=0.6, alpha=0.6)
    _band(panel, x, dataset, "congestion", BLUE, "layer average")
    handles = panel.get_legend_handles_labels()[0]
    handles.append(Line2D([], [], color=GREY, lw=0.6, label="single layers"))
    if dataset.resamples:
        level = f"{100 * dataset.confidence:g}% interval"
        handles.append(Patch(color=BLUE, alpha=0.22, lw=0, label=level))
    panel.legend(handles=handles, frameon=False, fontsize=8, loc="upper left")
    panel.set_ylabel("effective congestion\n$\\gamma_{eff}\\geq 0$ (Def. 3.1)")
    bottom, top = panel.get_ylim()
    panel.set_ylim(min(0, bottom), max(LEAST_TOP, top))


def _signed_panel(panel: Axes, x, dataset: xr.Dataset) -> None:
    _band(panel, x, dataset, "signed", BLUE, "signed estimate (KL)")
    _band(panel, x, dataset, "null", VERMILION, "dispersion null", "--")
    panel.axhline(0, color=GREY, lw=0.8)
    panel.legend(frameon=False, fontsize=8, loc="upper left")
    panel.set_ylabel("signed congestion and\nwhat dispersion explains")


def _router_panel(panel: Axes, x, dataset: xr.Dataset) -> None:
    _band(panel, x, dataset, "dispersion", GREEN, "logit dispersion $\\sigma$")
    _band(panel, x, dataset, "quality_spread", VERMILION, "quality spread $B_0$", "--")
    panel.plot(x, dataset.mean_entropy, ":", color=GREY, lw=1.8, label="load entropy $H$ / log M")
    panel.set_ylim(bottom=0)
    panel.legend(frameon=False, fontsize=8, ncols=3, loc="lower right")
    panel.set_ylabel("router logits\nand load")


def _shade_phases(panel: Axes, x: np.ndarray, dataset: xr.Dataset, named: bool) -> None:
    if "phase" not in dataset or set(dataset.phase.values) == {"none"}:
        return
    names = list(dataset.phase.values)
    middle = (x[1:] + x[:-1]) / 2
    edges = np.concatenate([[x[0]], middle, [x[-1]]])
    for i, name in enumerate(names):
        panel.axvspan(edges[i], edges[i + 1], color=PHASE_COLOURS[name], zorder=-1, lw=0)
    if named:
        for name in dict.fromkeys(names):
            inside = [i for i, other in enumerate(names) if other == name]
            place = panel.transData.transform  # the middle as drawn, whatever the scale
            ends = [(edges[inside[0]], 0), (edges[inside[-1] + 1], 0)]
            at = panel.transData.inverted().transform(place(ends).mean(0))[0]
            panel.text(
                at, 1.02, name, transform=panel.get_xaxis_transform(), fontsize=8, ha="center"
            )
