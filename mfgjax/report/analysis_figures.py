"""Figures of the analysis, beside the trajectory: heat map, decomposition, held-out error, continuation."""

import numpy as np
import xarray as xr
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure

from mfgjax.comparison import StaticComparison
from mfgjax.report.trajectory_figure import BLUE, GREEN, GREY, VERMILION
from mfgjax.scope import ContinuationSpread

WIDTH = 7.0
"""Inches: the text width of a page; halves stay readable in a column."""


def heat_map_figure(dataset: xr.Dataset) -> Figure:
    """Signed congestion of every layer and checkpoint, and what is left of it above the null."""
    height = 1.6 + 0.22 * dataset.layer.size
    figure = Figure(figsize=(WIDTH, 2 * height), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    titles = {"signed": "signed congestion (KL)", "excess": "excess over the dispersion null"}
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        values = dataset[name].transpose("layer", "checkpoint").values
        reach = float(np.nanmax(np.abs(values))) or 1.0
        norm: Normalize = TwoSlopeNorm(0, -reach, reach)
        image = panel.imshow(values, cmap="PuOr_r", norm=norm, aspect="auto")
        bar = figure.colorbar(image, ax=panel, pad=0.01)
        bar.set_label("congestion")
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_yticks(range(dataset.layer.size), range(dataset.layer.size))
        panel.set_ylabel("layer")
    labels = [str(c) for c in dataset.checkpoint.values]
    panels[-1].set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=8)
    panels[-1].set_xlabel("training step" if np.isfinite(dataset.step).all() else "checkpoint")
    return figure


def decomposition_figure(dataset: xr.Dataset) -> Figure:
    """Signed congestion of the last checkpoint's layers beside its null and the explicit part."""
    last = dataset.isel(checkpoint=-1)
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    panel = figure.subplots()
    at = np.arange(last.layer.size)
    series = [
        ("congestion", "Definition 3.1, ≥ 0", GREY, "s", -0.24),
        ("signed", "signed (KL)", BLUE, "o", -0.08),
        ("null", "dispersion null", VERMILION, "^", 0.08),
        ("excess", "excess = signed − null", GREEN, "D", 0.24),
    ]
    for name, label, colour, marker, shift in series:
        middle, (low, high) = last[name].values, last[f"{name}_interval"].values.T
        panel.vlines(at + shift, low, high, color=colour, lw=1.5)
        panel.plot(at + shift, middle, marker, color=colour, ms=5, label=label)
    panel.axhline(0, color=GREY, lw=0.8)
    explicit = float(dataset.aux_loss_coef) * dataset.experts
    if np.isfinite(explicit):
        label = f"explicit, αM = {explicit:.2f}"
        panel.axhline(explicit, color="black", lw=1, ls=":", label=label)
    panel.set_xticks(at, at)
    panel.set_xlabel("layer")
    panel.set_ylabel("congestion")
    panel.set_title(f"checkpoint {last.checkpoint.item()}", loc="left", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, ncols=3, loc="outside lower center")
    return figure


def held_out_figure(comparison: StaticComparison, confidence: float = 0.95) -> Figure:
    """Held-out L1 of every model: layers as dots, their mean as a bar end with its interval."""
    models = list(comparison.models)
    figure = Figure(figsize=(WIDTH, 0.6 + 0.3 * len(models)), layout="constrained")
    panel = figure.subplots()
    l1 = comparison.distance["l1"]
    at = np.arange(len(models))
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    for index, model in enumerate(models):
        sees = model in ("mixture softmax", "sinkhorn")
        panel.plot(l1[index], np.full(l1.shape[1], at[index]), "|", color=GREY, ms=8)
        if len(comparison.resampled):
            low, high = np.quantile(comparison.resampled[:, index].mean(-1), ends)
            panel.hlines(at[index], low, high, color=BLUE, lw=4, alpha=0.3)
        panel.plot(
            l1[index].mean(), at[index], "o", color=BLUE, mfc="white" if sees else BLUE, ms=6
        )
    panel.plot([], [], "o", color=BLUE, label="mean over layers")
    panel.plot([], [], "o", color=BLUE, mfc="white", label="the same, sees held-out logits")
    panel.plot([], [], "|", color=GREY, ms=8, ls="", label="one layer")
    panel.plot([], [], color=BLUE, lw=4, alpha=0.3, label="bootstrap interval")
    panel.set_yticks(at, models, fontsize=8)
    panel.invert_yaxis()
    panel.set_xlim(left=0)
    panel.set_xlabel("L1 distance to the held-out load")
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    return figure


def continuation_figure(
    observed: ContinuationSpread, shuffled: ContinuationSpread, confidence: float = 0.95
) -> Figure:
    """Continuation spread of each pair of layers, with its interval and its null."""
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    titles = {"largest": "largest over groups, $\\varepsilon_l$", "average": "average over groups"}
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        values = np.asarray(getattr(observed, name), float)
        null = np.asarray(getattr(shuffled, name), float)
        at = np.arange(values.shape[1])
        low, high = np.nanquantile(values[1:], ends, axis=0)
        panel.vlines(at, low, high, color=BLUE, lw=2)
        panel.plot(at, values[0], "o", color=BLUE, label="observed")
        panel.vlines(at + 0.15, null.min(0), null.max(0), color=VERMILION, lw=2)
        panel.plot(at + 0.15, null.mean(0), "^", color=VERMILION, label="favourites shuffled")
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_xticks(at, [f"{i} to {i + 1}" for i in at])
        panel.set_xlim(-0.5, len(at) - 0.5)
        panel.set_ylim(0, 2)
        panel.set_xlabel("layers")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("continuation spread (L1)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    return figure
