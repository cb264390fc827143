"""The result of `mfgjax.track` on axes: `plot_*` draw and return them.

mfgjax.report.plot_trajectory(mfgjax.track("traces/"))
"""

from collections.abc import Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm, to_hex

# Okabe and Ito's colour-blind safe palette; with a marker each, told apart without colour too.
BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
PURPLE = "#CC79A7"
STYLES = [(BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"), ("#E69F00", "v")]
STYLES += [("#56B4E9", "P"), ("black", "X"), (GREY, "*")]
WIDTH = 7.0
"""Inches: the text width of a page; halves stay readable in a column."""
PHASE_COLOURS = {
    "dormant": "#EEEEEE",
    "surge": "#F7D9A8",
    "stabilization": "#CFE6DA",
    "relaxation": "#D3E2F2",
}
_LABELS = {
    "congestion": "Definition 3.1",
    "signed": "signed (KL)",
    "dispersion_null": "dispersion null",
    "dispersion_excess": "excess over dispersion",
    "dispersion": "logit dispersion $\\sigma$",
    "quality_spread": "quality spread $B_0$",
    "entropy": "load entropy $H$ / log M",
}
_LINES = ["-", "--", ":", "-."]


def plot_trajectory(
    dataset: xr.Dataset,
    ax: Axes | None = None,
    names: str | Sequence[str] = "congestion",
    *,
    layers: bool | None = None,
) -> Axes:
    """Layer averages over training with their intervals, on shaded phases.

    A single checkpoint has no line over training: its layers are shown instead (`plot_layers`).

    Args:
        dataset: as `mfgjax.track` returns it; `truth` per checkpoint, where it holds that, is drawn too.
        ax: where to draw; new axes unless given.
        names: variables with a layer average, e.g. `("signed", "dispersion_null")`.
        layers: whether to draw every layer, each in a colour of its own; only if one name is given,
            unless told.
    """
    names = [names] if isinstance(names, str) else list(names)
    if dataset.checkpoint.size == 1:
        return plot_layers(dataset, ax, names)
    ax = _axes(ax)
    x, scale = training_axis(dataset.step.values)
    if layers if layers is not None else len(names) == 1:
        for index, label in layer_labels(dataset.layer.size).items():
            colour = layer_colour(index, dataset.layer.size)
            ax.plot(x, dataset[names[0]][:, index], color=colour, lw=0.8, label=label)
    for number, name in enumerate(names):
        colour = "black" if len(names) == 1 else STYLES[number][0]
        values, line = dataset[f"mean_{name}"], _LINES[number % len(_LINES)]
        label = "layer average" if len(names) == 1 else _LABELS.get(name, name)
        ax.plot(x, values, line, color=colour, lw=1.8, marker="o", ms=3, label=label)
        if f"mean_{name}_interval" in dataset:
            low, high = dataset[f"mean_{name}_interval"].values.T
            ax.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
    if "truth" in dataset and {"congestion", "signed"} & set(names):
        ax.plot(x, dataset.truth, ":", color="black", lw=2.2, label="set by hand")
    fit_axis(ax, x, scale)
    shade_phases(ax, x, dataset)
    ax.set_xlabel("training step" if np.isfinite(dataset.step).all() else "checkpoint")
    ax.set_ylabel(_LABELS.get(names[0], names[0]) if len(names) == 1 else "")
    ax.legend(frameon=False, fontsize=8, loc="upper left", ncols=3 if len(names) == 1 else 1)
    return bare(ax)


def plot_layers(
    dataset: xr.Dataset,
    ax: Axes | None = None,
    names: Sequence[str] = ("congestion", "signed", "dispersion_null", "dispersion_excess"),
    *,
    checkpoint: int = -1,
) -> Axes:
    """Every layer of one checkpoint, estimates beside each other with their intervals.

    Args:
        dataset: as `mfgjax.track` returns it.
        ax: where to draw; new axes unless given.
        names: variables by layer.
        checkpoint: its index.
    """
    ax, one = _axes(ax), dataset.isel(checkpoint=checkpoint)
    at = np.arange(one.layer.size)
    shifts = 0.16 * (np.arange(len(names)) - (len(names) - 1) / 2)
    for (colour, marker), shift, name in zip(STYLES, shifts, names, strict=False):
        if f"{name}_interval" in one:
            low, high = one[f"{name}_interval"].values.T
            ax.vlines(at + shift, low, high, color=colour, lw=1.5)
        values = one[name].values
        ax.plot(at + shift, values, marker, color=colour, ms=5, label=_LABELS.get(name, name))
    ax.axhline(0, color=GREY, lw=0.8)
    ax.set_xticks(at, at)
    ax.set(xlabel="layer", ylabel="congestion")
    ax.set_title(f"checkpoint {one.checkpoint.item()}", loc="left", fontsize=10)
    ax.legend(frameon=False, fontsize=8)
    return bare(ax)


def plot_heat_map(dataset: xr.Dataset, ax: Axes | None = None, name: str = "signed") -> Axes:
    """One variable of every layer and checkpoint, white at 0.

    Args:
        dataset: as `mfgjax.track` returns it.
        ax: where to draw; new axes unless given.
        name: of the variable.
    """
    ax = _axes(ax)
    values = dataset[name].transpose("layer", "checkpoint").values
    reach = float(np.nanmax(np.abs(values), initial=0, where=np.isfinite(values))) or 1.0
    norm = TwoSlopeNorm(0, -reach, reach)
    image = ax.imshow(values, cmap="PuOr_r", norm=norm, aspect="auto")
    ax.figure.colorbar(image, ax=ax, pad=0.01, label="congestion")
    ax.set_title(_LABELS.get(name, name), loc="left", fontsize=10)
    ax.set_yticks(range(dataset.layer.size), map(str, range(dataset.layer.size)))
    labels = [str(label) for label in dataset.checkpoint.values]
    ax.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=8)
    ax.set(ylabel="layer", xlabel="checkpoint")
    return ax


def bare(ax: Axes) -> Axes:
    """Without the frame's upper and right side."""
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def layer_colour(index: int, layers: int) -> str:
    """Of one layer: a palette for a few, from dark to bright by depth for many."""
    if layers <= len(STYLES):
        return to_hex(STYLES[index][0])
    return to_hex(colormaps["viridis"](0.95 * index / (layers - 1)))


def layer_labels(layers: int) -> dict[int, str | None]:
    """Every layer's entry in a legend; of a deep model, only some layers at even distances."""
    shown = range(layers)
    if layers > len(STYLES):
        shown = np.linspace(0, layers - 1, 5).round().astype(int)
    return {index: f"layer {index}" if index in shown else None for index in range(layers)}


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
    if x[0] < x[-1]:
        panel.set_xlim(x[0], x[-1])


def _axes(ax: Axes | None) -> Axes:
    return plt.figure(figsize=(WIDTH, 3.6), layout="constrained").subplots() if ax is None else ax


def phase_spans(
    x: np.ndarray, dataset: xr.Dataset, of: str = "phase"
) -> list[tuple[str, float, float]]:
    """Runs of one phase of the variable `of` with where they begin and end, halfway between checkpoints."""
    if of not in dataset or set(dataset[of].values) == {"none"}:
        return []
    names = list(map(str, dataset[of].values))
    edges = np.concatenate([[x[0]], (x[1:] + x[:-1]) / 2, [x[-1]]])
    starts = [i for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    return [(names[a], edges[a], edges[b]) for a, b in pairwise([*starts, len(names)])]


def shade_phases(panel: Axes, x: np.ndarray, dataset: xr.Dataset, of: str = "phase") -> None:
    """Colour the background by the phases of the variable `of`."""
    for name, begin, end in phase_spans(x, dataset, of):
        panel.axvspan(begin, end, color=PHASE_COLOURS[name], zorder=-1, lw=0)
