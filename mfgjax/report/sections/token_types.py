"""Token types: how many, found by which way, and what became of them in training."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mfgjax.estimate.inference.interval import confidence_interval
from mfgjax.report.inputs import Inputs
from mfgjax.report.plot import GREY, STYLES, WIDTH, bare
from mfgjax.report.section import Picture, Section, Table
from mfgjax.report.type_tables import (
    type_count_table,
    type_fit_table,
    type_load_table,
    type_separation_table,
    types_over_training_table,
)
from mfgjax.token_types.held_out import cross_validate_types
from mfgjax.token_types.over_training import TypesOverTraining, track_types

_PAPER_TYPES = 4
"""Types of the multi-type model of arXiv 2604.04230, followed over training where it is tried."""
FOLDS = 3
_REFERENCES = 5
_MOST_LAYERS = 4
"""Columns of the figure over training; of a deeper model, layers at even distances."""


def section(inputs: Inputs) -> Section | None:
    """Number of types and ways to find them at the last checkpoint, types over all of them."""
    if not inputs.tokens:
        return None
    last, types = inputs.tokens[-1], inputs.types
    resamples, seed, confidence = inputs.resamples, inputs.seed, inputs.confidence
    where = f"checkpoint {inputs.sweep.labels[inputs.token_index]}"
    held = cross_validate_types(last, (1, *sorted(types)), folds=FOLDS, seed=seed)
    counts = type_count_table(last, held, references=_REFERENCES, seed=seed)
    followed = _PAPER_TYPES if _PAPER_TYPES in types else max(types)
    # The largest number of types, though few are followed: the fits above are then compiled already.
    over = track_types(
        inputs.tokens, followed, resamples=resamples, seed=seed, most_types=max(types)
    )
    figures = [
        Picture(
            "type_count",
            "Evidence for each number of token types",
            lambda: _type_count_figure(counts),
        )
    ]
    if len(over.checkpoints) > 1:
        figures.append(
            Picture(
                "types_over_training",
                "Weights and separation of token types over training",
                lambda: _types_over_training_figure(over, confidence),
            )
        )
    return Section(
        "Token types",
        tables=(
            Table(
                "type_count",
                f"How many token types, {where}",
                counts,
                f"log_likelihood: nats per token of logits and choices, every text held out once in "
                f"{FOLDS} folds. likelihood_chooses: smallest number within two standard errors of the "
                "best; at the largest tried, more may be better still. gap_chooses: '-' where the gap "
                "still grows. stability: adjusted Rand index between resamples of the texts.",
                (
                    "layer",
                    "types",
                    "log_likelihood",
                    "gain",
                    "gap",
                    "stability",
                    "likelihood_chooses",
                    "gap_chooses",
                ),
            ),
            Table(
                "type_fit",
                f"Types by likelihood less types by k-means, held out, {where}",
                type_fit_table(held, resamples=resamples, confidence=confidence, seed=seed),
                "joint (nats per token) and choice (nats per dispatch, given the logits) favour the "
                "likelihood fit where positive, l1 of the load where negative. Paired over texts. joint counts "
                "the scatter too, which k-means plugs in: at one type that is nearly all of it.",
            ),
            Table(
                "type_load",
                f"Held-out L1 of the load by types, {where}",
                type_load_table(held),
                "Congestion by likelihood at the equilibrium in both columns, medians over layers and folds. seen load: the "
                "fitting texts' own load, without a model.",
            ),
            Table(
                "types_over_training",
                f"{followed} token types over training",
                types_over_training_table(over, confidence),
                "A type's number follows its tokens; type 0 is the largest at the last checkpoint. "
                "moved: root mean square change of quality over experts since the checkpoint before; kept: "
                "share of its tokens that were in it before. Intervals: texts resampled, fits fixed.",
            ),
            Table(
                "type_separation",
                f"{followed} token types over training: how far apart",
                type_separation_table(over, confidence),
                "separation: share of the logits' variance between types; agreement: adjusted Rand index "
                "with the checkpoint before; congestion by likelihood at the equilibrium (1e4: the bound, where the "
                "load is uniform), of the types and of all tokens as one type.",
            ),
        ),
        figures=tuple(figures),
    )


def _types_over_training_figure(found: TypesOverTraining, confidence: float = 0.95) -> Figure:
    """Weight of every type, and separation of the types, from checkpoint to checkpoint."""
    checkpoints, layers, types = found.weight.shape[1:]
    shown = np.unique(np.linspace(0, layers - 1, min(layers, _MOST_LAYERS)).round().astype(int))
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    panels = figure.subplots(2, len(shown), sharex=True, sharey="row", squeeze=False)
    at = np.arange(checkpoints)
    for column, layer in enumerate(shown):
        top, bottom = panels[:, column]
        for own in range(types):
            colour, marker = STYLES[own % len(STYLES)]
            place = at + 0.08 * (own - (types - 1) / 2)
            _marks(
                top,
                place,
                found.weight[:, :, layer, own],
                confidence,
                colour,
                marker,
                f"type {own}",
            )
        _marks(
            bottom,
            at,
            found.separation[:, :, layer],
            confidence,
            "black",
            "o",
            "variance between types",
        )
        agreement = found.agreement[:, layer]
        label = "agreement with checkpoint before"
        bottom.plot(at, agreement, "--", marker="s", mfc="white", color=GREY, ms=5, label=label)
        top.set_title(f"layer {layer}", loc="left", fontsize=9)
        bottom.set_xticks(at, found.checkpoints, rotation=45, ha="right", fontsize=8)
        for panel in (top, bottom):
            bare(panel)
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


def _type_count_figure(table: pd.DataFrame) -> Figure:
    """Evidence for each number of types: gain in held-out likelihood, gap statistic, stability.

    Args:
        table: as `type_count_table` returns it.
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
        bare(panel)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=8, loc="outside lower center")
    return figure


def _marks(panel, at, values, confidence, colour, marker, label) -> None:
    """A line with intervals: row 0 of `values` the estimate, the rest resamples."""
    if len(values) > 1:
        low, high = confidence_interval(values[1:], confidence).T
        panel.vlines(at, low, high, color=colour, lw=1.5)
    panel.plot(at, values[0], "-", marker=marker, color=colour, ms=5, lw=1, label=label)
