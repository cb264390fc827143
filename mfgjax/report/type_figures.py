"""Figures of token types: how many there are, and what becomes of them in training."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mfgjax.report.trajectory_figure import BLUE, GREEN, GREY, VERMILION
from mfgjax.token_types import TypesOverTraining

WIDTH = 7.0
MOST_LAYERS = 4
"""Columns of the figure; of a deeper model, layers at even distances."""
STYLES = [(BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), ("#CC79A7", "D"), ("#E69F00", "v")]
STYLES += [("#56B4E9", "P"), ("black", "X"), (GREY, "*")]
"""Colours of Okabe and Ito and a marker each: told apart without colour too."""


def types_over_training_figure(found: TypesOverTraining, confidence: float = 0.95) -> Figure:
    """Weight of every type, and separation of the types, from checkpoint to checkpoint."""
    checkpoints, layers, types = found.weight.shape[1:]
    shown = np.unique(np.linspace(0, layers - 1, min(layers, MOST_LAYERS)).round().astype(int))
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    panels = figure.subplots(2, len(shown), sharex=True, sharey="row", squeeze=False)
    at = np.arange(checkpoints)
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    for column, layer in enumerate(shown):
        top, bottom = panels[:, column]
        for own in range(types):
            colour, marker = STYLES[own % len(STYLES)]
            place = at + 0.08 * (own - (types - 1) / 2)
            _marks(top, place, found.weight[:, :, layer, own], ends, colour, marker, f"type {own}")
        _marks(
            bottom, at, found.separation[:, :, layer], ends, "black", "o", "variance between types"
        )
        agreement = found.agreement[:, layer]
        label = "agreement with checkpoint before"
        bottom.plot(at, agreement, "--", marker="s", mfc="white", color=GREY, ms=5, label=label)
        top.set_title(f"layer {layer}", loc="left", fontsize=9)
        bottom.set_xticks(at, found.checkpoints, rotation=45, ha="right", fontsize=8)
        for panel in (top, bottom):
            panel.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("fraction of tokens")
    panels[1, 0].set_ylabel("share, or Rand index")
    # Once all columns are drawn: a limit set before stops the shared axis from growing.
    for panel in panels[:, 0]:
        panel.set_ylim(bottom=min(0, panel.get_ylim()[0]))
    digits = all(name.isdigit() for name in found.checkpoints)
    for panel in panels[1]:
        panel.set_xlabel("training step" if digits else "checkpoint", fontsize=9)
    handles = [panel.get_legend_handles_labels() for panel in panels[:, 0]]
    figure.legend(
        [h for own, _ in handles for h in own],
        [name for _, own in handles for name in own],
        frameon=False,
        fontsize=8,
        ncols=4,
        loc="outside lower center",
    )
    return figure


def type_count_figure(table: pd.DataFrame) -> Figure:
    """Evidence for each number of types: gain in held-out likelihood, gap statistic, stability.

    Args:
        table: as `mfgjax.token_types.type_count_table` returns it.
    """
    figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
    panels = figure.subplots(1, 3)
    names = [
        ("log_likelihood", "held-out gain (nats per token)", None),
        ("gap", "gap statistic", "gap_error"),
        ("stability", "stability (Rand index)", "stability_spread"),
    ]
    layers = list(dict.fromkeys(table.layer))
    for panel, (name, label, error) in zip(panels, names, strict=True):
        for index, layer in enumerate(layers):
            own = table[table.layer == layer]
            value = np.asarray(own[name])
            if error is None:
                value = value - value[0]
            colour, marker = STYLES[index % len(STYLES)]
            spread = None if error is None else np.asarray(own[error])
            style = {"color": colour, "marker": marker, "ms": 4, "lw": 1}
            panel.errorbar(own.types, value, spread, label=f"layer {index}", **style)
        panel.set_xticks(sorted(set(table.types)))
        panel.set_xlabel("types K")
        panel.set_ylabel(label, fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=8, loc="outside lower center")
    return figure


def _marks(panel, at, values, ends, colour, marker, label) -> None:
    """A line with intervals: row 0 of `values` the estimate, the rest resamples."""
    if len(values) > 1:
        low, high = np.quantile(values[1:], ends, axis=0)
        panel.vlines(at, low, high, color=colour, lw=1.5)
    panel.plot(at, values[0], "-", marker=marker, color=colour, ms=5, lw=1, label=label)
