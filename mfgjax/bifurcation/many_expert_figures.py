"""Figures of M experts: branches and thresholds, and of the trainable layers."""

import jax
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from mfgjax.bifurcation.diagram import Diagram
from mfgjax.bifurcation.special_points import PointKind
from mfgjax.bifurcation.two_expert_figures import (
    BLUE,
    CYCLE,
    GREY,
    STRENGTH,
    VERMILION,
    name_panel,
    new_figure,
)

FEEDBACK = "feedback (−congestion / temperature)"


def collapse_figure(data: xr.Dataset, sizes: np.ndarray, table: xr.Dataset) -> Figure:
    """Leader's load against feedback for several M, and the three thresholds against M.

    Args:
        data: as `collapse_dataset` gives it.
        sizes: numbers of experts of `table`.
        table: `fold`, `maxwell`, `spinodal` over those.
    """
    figure, (left, right) = new_figure(2, height=3.2)
    for (colour, _), size in zip(CYCLE, data.experts.values, strict=False):
        at = data.sel(experts=size)
        stable = at.growth < 1e-9
        left.plot(
            at.feedback, at.leader_load.where(stable), color=colour, lw=1.8, label=f"M = {size}"
        )
        left.plot(at.feedback, at.leader_load.where(~stable), ":", color=colour, lw=1.5)
        left.plot([0, float(at.spinodal)], [1 / size] * 2, color=colour, lw=1.8)
    left.set_xlim(0, 12)
    left.set_ylim(0, 1.02)
    left.legend(
        fontsize=8, frameon=False, loc="center right", bbox_to_anchor=(1.0, 0.66), handlelength=1.4
    )
    name_panel(left, "one expert leads (dotted: unstable)", FEEDBACK, "its load")
    rows = (
        ("spinodal", "balance unstable (spinodal)"),
        ("maxwell", "collapse preferred (Maxwell)"),
        ("fold", "collapse possible (fold)"),
    )
    for (name, label), (colour, style) in zip(rows, CYCLE, strict=False):
        right.plot(sizes, table[name], color=colour, ls=style, lw=1.8, label=label)
    right.fill_between(sizes, table["fold"], table["spinodal"], color=GREY, alpha=0.15, lw=0)
    right.set_xscale("log", base=2)
    right.set_yscale("log", base=2)
    ticks = [2, 4, 8, 16, 32, 64, 128, 256]
    right.set_xticks(ticks, [str(t) for t in ticks])
    right.set_yticks(ticks, [str(t) for t in ticks])
    right.legend(fontsize=8, frameon=False, loc="upper left")
    name_panel(right, "hysteretic region (grey)", "experts M", "feedback")
    return figure


def diagram_figure(diagrams: list[Diagram], titles: list[str]) -> Figure:
    """Continued branches: largest load against feedback, with folds and branch points."""
    figure, panels = new_figure(len(diagrams), height=3.0)
    for panel, diagram, title in zip(panels, diagrams, titles, strict=True):
        for branch, points in zip(diagram.branches, diagram.points, strict=True):
            count = int(branch.points)
            load = np.asarray(jax.nn.softmax(branch.state[:count], axis=-1)).max(axis=1)
            feedback, stable = branch.parameter[:count], np.asarray(branch.stable[:count])
            panel.plot(feedback, np.where(stable, load, np.nan), color=BLUE, lw=1.8)
            panel.plot(feedback, np.where(stable, np.nan, load), "--", color=VERMILION, lw=1.3)
            for point in points:
                fold = point.kind == PointKind.FOLD
                panel.plot(
                    float(point.parameter),
                    float(jax.nn.softmax(point.state).max()),
                    "o" if fold else "s",
                    color="black",
                    mfc="black" if fold else "white",
                    ms=4.5,
                    zorder=3,
                )
        panel.set_ylim(0.3, 1.02)
        name_panel(panel, title, "feedback", "largest load")
    keys = [
        panels[0].plot([], [], color=BLUE, lw=1.8, label="stable")[0],
        panels[0].plot([], [], "--", color=VERMILION, lw=1.3, label="unstable")[0],
        panels[0].plot([], [], "o", color="black", ms=4.5, label="fold")[0],
        panels[0].plot([], [], "s", color="black", mfc="white", ms=4.5, label="branch point")[0],
    ]
    panels[0].legend(handles=keys, fontsize=8, frameon=False, loc="upper left")
    return figure


def training_figure(runs: dict[str, xr.Dataset], digits: dict[str, xr.Dataset]) -> Figure:
    """Trained layers: imbalance against theory, and the digits classifier with its accuracy."""
    figure = new_figure(2, height=5.4)[0]
    figure.clear()
    panels = figure.subplots(2, 2)
    for panel in panels.ravel():
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    for panel, (title, data) in zip(panels[0], runs.items(), strict=False):
        _imbalance(panel, data, BLUE, "o", "trained")
        theory = data.smeared if np.isfinite(data.smeared).all() else data.theory.mean("seed")
        panel.plot(data.strength, theory, "-", color=VERMILION, lw=1.4, label="theory")
        name_panel(panel, title, STRENGTH, "mean |load gap|")
        panel.legend(fontsize=8, frameon=False, loc="upper left")
    for (label, data), (colour, style), marker in zip(digits.items(), CYCLE, "os", strict=False):
        _imbalance(panels[1, 0], data, colour, marker, label)
        panels[1, 0].plot(data.strength, data.theory.mean("seed"), color=colour, ls=style, lw=1.3)
        panels[1, 1].errorbar(
            data.strength,
            data.accuracy.mean("seed"),
            data.accuracy.std("seed"),
            fmt=marker + style,
            color=colour,
            ms=4,
            capsize=2,
            label=label,
        )
        panels[1, 0].axvline(float(data.threshold[0].mean()), color=colour, lw=1, ls=":")
        panels[1, 1].axvline(float(data.threshold[0].mean()), color=colour, lw=1, ls=":")
    name_panel(
        panels[1, 0],
        "digits (line: theory, dotted: balance lost)",
        "feedback strength",
        "mean |load gap|",
    )
    name_panel(panels[1, 1], "digits, held-out images", "feedback strength", "accuracy")
    for panel in panels[1]:
        panel.legend(fontsize=8, frameon=False)
    return figure


def _imbalance(panel, data, colour, marker, label):
    mean, spread = data.imbalance.mean("seed"), data.imbalance.std("seed")
    panel.errorbar(
        data.strength, mean, spread, fmt=marker, color=colour, ms=4, capsize=2, label=label
    )
    panel.set_ylim(0, 1.05)
