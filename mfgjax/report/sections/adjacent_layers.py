"""What adjacent layers have to do with each other: how much a token's expert tells of its next one."""

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import pearsonr

from mfgjax.estimate.inference.interval import confidence_interval
from mfgjax.numerics.status import Status
from mfgjax.report.columns import interval_columns
from mfgjax.report.inputs import Inputs
from mfgjax.report.plot import BLUE, VERMILION, WIDTH, bare
from mfgjax.report.section import Picture, Section, Table
from mfgjax.scope.continuation import (
    ContinuationSpread,
    estimate_continuation,
    shuffled_continuation,
)
from mfgjax.scope.coupling import Coupling, estimate_coupling
from mfgjax.trace import TokenTrace

_SHUFFLES = 50
"""Shuffles of the continuation null: enough to see whether the spread is outside it."""
_MIN_TOKENS = 10
"""Groups of fewer tokens do not enter the largest continuation spread."""
_COUPLED_RESAMPLES = 50
"""Resamples of the coupled equilibrium at most: each solves the whole stack of layers."""
_WITH_INTERVAL = ("spread", "distance", "mean_quality_distance", "own_error", "coupled_error")


def section(inputs: Inputs) -> Section | None:
    """Continuation spread and coupled equilibrium, where there are token logits and two layers."""
    if not inputs.tokens or len(inputs.tokens[-1].metadata.layers) < 2:
        return None
    trace, level, comparison = inputs.tokens[-1], inputs.confidence, inputs.comparison
    key = jax.random.fold_in(jax.random.key(inputs.seed), 1)
    spread = (
        estimate_continuation(trace, inputs.weights, min_tokens=_MIN_TOKENS),
        shuffled_continuation(trace, key, _SHUFFLES, min_tokens=_MIN_TOKENS),
    )
    fit_error = comparison.distance["l1"][comparison.models.index("MFG")]
    return Section(
        "Adjacent layers",
        tables=(
            _continuation_table(*spread, comparison.layers, fit_error, level),
            _coupling(trace, inputs),
        ),
        figures=(
            Picture(
                "continuation",
                "Continuation spread of adjacent layers with its null",
                lambda: _continuation_figure(*spread, level),
            ),
        ),
    )


def _coupling(trace: TokenTrace, inputs: Inputs) -> Table:
    of, rows = str(inputs.sweep.labels[inputs.token_index]), slice(_COUPLED_RESAMPLES + 1)
    congestion = inputs.congestion(inputs.token_index)[rows]
    found = estimate_coupling(trace, inputs.weights[rows], congestion, min_tokens=_MIN_TOKENS)
    return _coupling_table(found, trace.metadata.layers, of, inputs.confidence)


def _continuation_table(
    observed: ContinuationSpread,
    shuffled: ContinuationSpread,
    layers: tuple[str, ...],
    fit_error: np.ndarray,
    confidence: float,
) -> Table:
    """Continuation spread per pair of layers, with interval, null and correlation with the fit.

    Args:
        observed: point estimate in row 0, resamples after it.
        shuffled: the null.
        layers: names of the layers.
        fit_error: held-out L1 of the MFG per layer; that of a pair's earlier layer is correlated.
        confidence: level of the intervals.
    """
    frame = pd.DataFrame({"layer": layers[:-1], "next_layer": layers[1:]})
    for name in ("largest", "average"):
        values = np.asarray(getattr(observed, name), float)
        null = np.asarray(getattr(shuffled, name), float)
        frame = frame.assign(**interval_columns(name, values, confidence))
        frame[f"{name}_null"] = null.mean(0)
        frame[f"{name}_p"] = (1 + (null >= values[:1]).sum(0)) / (1 + len(null))
    frame["fit_error"] = fit_error[:-1]
    note = "largest = eps_l of Section 6.6, 0 to 2; null: favourites shuffled over tokens."
    if len(frame) > 2 and np.ptp(frame.largest) > 0 and np.ptp(frame.fit_error) > 0:
        r, p = pearsonr(frame.largest, frame.fit_error)
        note += f" Correlation of eps_l with the held-out MFG error: r = {r:.2f}, p = {p:.2f}, "
        note += f"{len(frame)} pairs (published: r = 0.63, p = 0.012, 15 pairs)."
    return Table("continuation", "Continuation spread of adjacent layers", frame, note)


def _coupling_table(
    coupling: Coupling, layers: tuple[str, ...], checkpoint: str, confidence: float
) -> Table:
    """One row per layer.

    Args:
        coupling: point estimate in row 0, resamples after it.
        layers: names of the layers.
        checkpoint: what the numbers are of.
        confidence: level of the percentile intervals.
    """
    frame = pd.DataFrame({"layer": layers})
    for name in Coupling.__dataclass_fields__:
        values = np.asarray(getattr(coupling, name), float)
        if name == "status":
            frame["outcome"] = [Status(int(v)).name.lower() for v in values[0]]
            continue
        if name in _WITH_INTERVAL:
            frame = frame.assign(**interval_columns(name, values, confidence))
        else:
            frame[name] = values[0]
    worse = int((frame.coupled_error > frame.own_error + 1e-3).sum())  # beyond float32
    beyond = int((frame.mean_quality_distance > frame.bound_without_contraction + 1e-3).sum())
    note = (
        "spread: eps_l of Theorem 5.8 in logits, from mean centred logits by favourite expert of the "
        "layer before. distance: L1 from the layer's own equilibrium to the coupled one, where tokens "
        "look ahead; bound: Theorem 5.8, infinite where it says nothing; bound_without_contraction: "
        "eps_l / 2. *_error: L1 to the observed load. The coupled equilibrium is farther from the "
        f"observed load on {worse} of {len(frame)} layers. mean_quality_distance is what the fit at "
        f"the mean logit misses; the theorem does not cover it, and it exceeds eps_l / 2 on {beyond}."
    )
    title = f"Coupled layers against layers on their own, checkpoint {checkpoint}"
    shown = ("layer", "congestion", "spread", "distance", "own_error", "coupled_error", "outcome")
    return Table("coupled_layers", title, frame, note, shown)


def _continuation_figure(
    observed: ContinuationSpread, shuffled: ContinuationSpread, confidence: float = 0.95
) -> Figure:
    """Continuation spread of each pair of layers, with its interval and its null."""
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"largest": "largest over groups, $\\varepsilon_l$", "average": "average over groups"}
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        values = np.asarray(getattr(observed, name), float)
        null = np.asarray(getattr(shuffled, name), float)
        at = np.arange(values.shape[1])
        low, high = confidence_interval(values[1:], confidence).T
        panel.vlines(at, low, high, color=BLUE, lw=2)
        panel.plot(at, values[0], "o", color=BLUE, label="observed")
        panel.vlines(at + 0.15, null.min(0), null.max(0), color=VERMILION, lw=2)
        panel.plot(at + 0.15, null.mean(0), "^", color=VERMILION, label="favourites shuffled")
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_xticks(at, [f"{i} to {i + 1}" for i in at])
        panel.set_xlim(-0.5, len(at) - 0.5)
        panel.set_ylim(0, 2)
        panel.set_xlabel("layers")
        bare(panel)
    panels[0].set_ylabel("continuation spread (L1)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    return figure
