"""Where the game describes the router: what its assumptions cost at the last checkpoint."""

from functools import partial

import equinox as eqx
import jax
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from scipy.stats import pearsonr

from mfgjax.estimate.inference.interval import confidence_interval
from mfgjax.estimate.inference.quality import estimate_mean_quality
from mfgjax.estimate.inference.weights import jackknife_groups, leave_out_weights, unit_weights
from mfgjax.numerics.status import Status
from mfgjax.report.columns import interval_columns
from mfgjax.report.inputs import Inputs
from mfgjax.report.plot import BLUE, VERMILION, WIDTH, bare
from mfgjax.report.section import Picture, Section, Table
from mfgjax.scope import estimate_scope, scope_card
from mfgjax.scope.card import IN_SCOPE, MARGINAL, OUT
from mfgjax.scope.continuation import (
    ContinuationSpread,
    estimate_continuation,
    shuffled_continuation,
)
from mfgjax.scope.coupling import Coupling, estimate_coupling
from mfgjax.scope.truncation import measure_truncation
from mfgjax.trace import TokenTrace
from mfgjax.trace.sweep import Sweep

_SHUFFLES = 50
"""Shuffles of the continuation null: enough to see whether the spread is outside it."""
MIN_TOKENS = 10
"""Groups of fewer tokens do not enter the largest continuation spread."""
_COUPLED_RESAMPLES = 50
"""Resamples of the coupled equilibrium at most: each solves the whole stack of layers."""
_WITH_INTERVAL = ("spread", "distance", "mean_quality_distance", "own_error", "coupled_error")


def section(inputs: Inputs) -> Section:
    """Scope card and top-K choice; where there are tokens and layers, what couples the layers."""
    card = _card(inputs)
    tables = [
        Table(
            "scope_card",
            f"Scope card per layer, checkpoint {inputs.sweep.labels[-1]}",
            card,
            "Intervals: those of the trajectory for congestion, excess and what is a multiple of "
            "congestion; jackknife over texts for the rest.",
            shown=(
                "layer",
                "verdict",
                "reason",
                "safety_margin",
                "equilibrium_distance",
                "uniform_distance",
            ),
        ),
        _truncation_table(inputs.sweep, inputs.dataset),
    ]
    figures: tuple[Picture, ...] = ()
    if inputs.tokens and len(inputs.tokens[-1].metadata.layers) > 1:
        trace, level = inputs.tokens[-1], inputs.confidence
        key = jax.random.fold_in(jax.random.key(inputs.seed), 1)
        spread = (
            estimate_continuation(trace, inputs.weights, min_tokens=MIN_TOKENS),
            shuffled_continuation(trace, key, _SHUFFLES, min_tokens=MIN_TOKENS),
        )
        comparison = inputs.comparison
        fit_error = comparison.distance["l1"][comparison.models.index("MFG")]
        tables += [
            _continuation_table(*spread, comparison.layers, fit_error, level),
            _coupling(trace, inputs),
        ]
        figures = (
            Picture(
                "continuation",
                "Continuation spread of adjacent layers with its null",
                lambda: _continuation_figure(*spread, level),
            ),
        )
    return Section("Scope", verdict=(_verdict(card),), tables=tuple(tables), figures=figures)


def _card(inputs: Inputs) -> pd.DataFrame:
    """Verdicts by the report's one kind of interval, at its level."""
    last, texts = inputs.dataset.isel(checkpoint=-1), inputs.last.token_count.shape[0]
    weights = np.concatenate([np.ones((1, texts)), leave_out_weights(jackknife_groups(texts))])
    layers = jax.tree.map(
        lambda own, without: np.concatenate([own[-1:], without[:, -1]]),
        inputs.trajectory.estimate,
        inputs.trajectory.left_out,
    )
    rows = np.asarray(weights, inputs.last.token_count.dtype)
    scope = jax.device_get(estimate_scope(inputs.last, rows, last.top_k, layers))
    congestion = last.congestion_interval.values
    point = jax.tree.map(lambda leaf: leaf[0], scope)
    return scope_card(
        eqx.tree_at(lambda own: own.dispersion_excess, point, last.dispersion_excess.values),
        jax.tree.map(lambda leaf: leaf[1:], scope),
        inputs.sweep.checkpoints[-1].layers,
        confidence=inputs.confidence,
        kind="jackknife",
        known={
            "congestion": congestion,
            "dispersion_excess": last.dispersion_excess_interval.values,
            # Multiples of the congestion, whose noise is most of theirs: the others are held fixed.
            "safety_margin": congestion / last.critical_congestion.values[:, None],
            "worst_case_rate": congestion / 2,
        },
    )


def _verdict(card: pd.DataFrame) -> str:
    """Layers in each class, and the commonest reason against."""
    count = {name: int((card.verdict == name).sum()) for name in (IN_SCOPE, MARGINAL, OUT)}
    if count[IN_SCOPE] == len(card):
        return f"In scope of the game on all {len(card)} layers."
    parts = [f"{name} on {number}" for name, number in count.items() if number]
    found = f"Of {len(card)} layers the game is {', '.join(parts)}"
    reasons = card.reason[card.verdict != IN_SCOPE].str.split("; ").explode().value_counts()
    return f"{found}. Most often (on {reasons.iloc[0]}): {reasons.index[0]}."


def _coupling(trace: TokenTrace, inputs: Inputs) -> Table:
    of, rows = str(inputs.sweep.labels[inputs.token_index]), slice(_COUPLED_RESAMPLES + 1)
    congestion = inputs.congestion(inputs.token_index)[rows]
    found = estimate_coupling(trace, inputs.weights[rows], congestion, min_tokens=MIN_TOKENS)
    return _coupling_table(found, trace.metadata.layers, of, inputs.confidence)


def _truncation_table(sweep: Sweep, dataset: xr.Dataset) -> Table:
    """Last checkpoint: the model with top-K choice against the model without, and the bounds."""
    last = jax.tree.map(lambda leaf: leaf[-1], sweep.statistics)

    @jax.jit
    def measure(statistics, congestion):
        every = unit_weights(statistics.token_count.shape[0], statistics.token_count.dtype)[0]
        quality = estimate_mean_quality(every, statistics.token_count, statistics.logit_sum)
        return jax.vmap(partial(measure_truncation, top_k=dataset.top_k))(quality, congestion)

    found = measure(last, dataset.congestion.values[-1].astype(last.logit_sum.dtype))
    frame = pd.DataFrame({"layer": sweep.checkpoints[-1].layers})
    for name in ("distance", "dropped", "bound", "bound_from_mass", "period"):
        frame[name] = np.asarray(getattr(found, name))
    frame["outcome"] = [Status(int(value)).name.lower() for value in np.asarray(found.status)]
    note = (
        "distance: L1 from the equilibrium to the truncated fixed point at the estimate. bound: "
        "Theorem 5.6, infinite where vacuous; bound_from_mass needs no contraction but a fixed point."
    )
    return Table("top_k_truncation", "What top-K choice does to the model", frame, note)


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
