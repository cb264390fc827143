"""The paper's analysis of one folder of traces: every table it has numbers for, from your own run."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import pandas as pd
import xarray as xr

import mfgjax
from mfgjax.comparison import (
    Refits,
    StaticComparison,
    compare_static,
    group_errors,
    layer_errors,
    paired_differences,
    refit_static,
    refitted_differences,
    standard_pairs,
)
from mfgjax.dynamics import estimate_checkpoint
from mfgjax.estimate import (
    ExcessCongestion,
    SensitivityTable,
    estimate_excess,
    resample_weights,
    unit_weights,
)
from mfgjax.report.analysis_tables import (
    AnalysisTable,
    balance_tables,
    continuation_table,
    cross_architecture_table,
    decomposition_table,
    published,
    truncation_table,
)
from mfgjax.report.coupling_table import coupling_table
from mfgjax.report.decomposition_groups import decomposition_groups
from mfgjax.report.permutation_panel import excess_table
from mfgjax.report.robustness import robustness_tables
from mfgjax.report.sensitivity import sensitivity_of_traces
from mfgjax.report.trajectory_table import checkpoint_frame, layer_frame, remarks
from mfgjax.report.type_analysis import TypeAnalysis, analyze_types
from mfgjax.scope import (
    ContinuationSpread,
    estimate_continuation,
    estimate_coupling,
    estimate_scope,
    scope_card,
    shuffled_continuation,
)
from mfgjax.trace import Sweep, TokenTrace, read_sweep, read_token_traces, statistics_of

SHUFFLES = 50
"""Shuffles of the continuation null: enough to see whether the spread is outside it."""
MIN_TOKENS = 10
"""Groups of fewer tokens do not enter the largest continuation spread."""
REFITS, SPLITS = 50, 10
"""Times that the models of the comparison are fitted anew: on resampled texts, on other splits."""
COUPLED_RESAMPLES = 50
"""Resamples of the coupled equilibrium at most: each solves the whole stack of layers."""


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What `analyze` found.

    Attributes:
        trajectory: as `mfgjax.track` returns it.
        tables: in the order of the report.
        sensitivity: Definition 3.1 and the signed estimate under every quality.
        excess: over the permutation null, of every checkpoint with token logits, in order.
        comparison: of the last checkpoint with token logits; None without one.
        continuation: of that checkpoint: observed (first row) and resampled, and shuffled.
        types: of all checkpoints with token logits; None without one.
        remarks: what a reader must know.
    """

    trajectory: xr.Dataset
    tables: tuple[AnalysisTable, ...]
    sensitivity: SensitivityTable
    excess: dict[str, ExcessCongestion]
    comparison: StaticComparison | None
    continuation: tuple[ContinuationSpread, ContinuationSpread] | None
    types: TypeAnalysis | None
    remarks: tuple[str, ...]


def analyze(
    traces: str | Path,
    *,
    resamples: int = 500,
    seed: int = 0,
    confidence: float = 0.95,
    stream: str = "decoder",
    types: tuple[int, ...] = (2, 4, 8),
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda checkpoints: checkpoints,
) -> Analysis:
    """Trajectory, balance, decomposition, scope, and from token logits the static comparison.

    Args:
        traces: folder of trace files, one per checkpoint; statistics are enough for all but the
            static comparison and the continuation spread, which need one `tokens` file.
        resamples: bootstrap resamples of the texts, at least 1.
        seed: of every random draw.
        confidence: level of the intervals, in (0, 1).
        stream: `"decoder"` or `"encoder"`.
        types: numbers of token types of the multi-type models.
        progress: wraps the iteration over checkpoints.

    Raises:
        TraceError: no traces, or unsound ones.
        ValueError: `resamples` or `confidence` out of range, or too few texts to split.
    """
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; the scope card needs at least 1 (say 500)")
    dataset = mfgjax.track(
        traces,
        resamples=resamples,
        seed=seed,
        confidence=confidence,
        stream=stream,
        progress=progress,
    )
    sweep = read_sweep(traces, stream)
    last = jax.tree.map(lambda leaf: leaf[-1], sweep.statistics)
    texts = last.token_count.shape[0]
    drawn = resample_weights(jax.random.key(seed), texts, resamples)
    weights = jnp.concatenate([unit_weights(texts), drawn]).astype(last.token_count.dtype)
    layers = estimate_checkpoint(last, dataset.top_k, resamples=resamples, seed=seed)
    scope = estimate_scope(last, weights, dataset.top_k, layers)
    card = scope_card(
        jax.tree.map(lambda leaf: leaf[0], scope),
        jax.tree.map(lambda leaf: leaf[1:], scope),
        sweep.checkpoints[0].layers,
        confidence=confidence,
    )
    sensitivity = sensitivity_of_traces(traces, stream, objectives=("l1", "kl"))
    label = sweep.labels[-1]
    tables = [
        AnalysisTable("trajectory", "Training dynamics, layer averages", checkpoint_frame(dataset)),
        published("table1_olmoe_dynamics", "Table 1, OLMoE-1B-7B"),
        published("table2_openmoe_dynamics", "Table 2, OpenMoE-8B"),
        AnalysisTable("layers", "Every checkpoint and layer", layer_frame(dataset)),
        decomposition_table(dataset),
        decomposition_groups(dataset),
        published("table5_decomposition", "Table 5, OLMoE-1B-7B"),
        AnalysisTable("scope_card", f"Scope card per layer, checkpoint {label}", card),
        truncation_table(sweep, dataset),
        *balance_tables(sweep),
        *robustness_tables(sensitivity, sweep.labels),
    ]
    notes = remarks(dataset)
    token_traces = read_token_traces(traces, stream)
    excess = _excess(token_traces, sweep, confidence)
    comparison = continuation = found_types = None
    if not token_traces:
        notes.append(
            "No token logits among the traces: the static comparison, token types, the continuation spread, "
            "coupled layers and the permutation null are left out. Have mfgjax-extract write the tokens form "
            "of one checkpoint (--tokens)."
        )
    else:
        trace = token_traces[-1]
        tables += [excess_table(excess)] if excess else []
        comparison = compare_static(trace, types=types, resamples=resamples, seed=seed)
        tables += _comparison_tables(comparison, trace, confidence)
        refits = refit_static(
            trace, types=types, refits=min(REFITS, max(resamples, 2)), splits=SPLITS, seed=seed
        )
        tables.append(_refit_table(comparison, refits, confidence))
        found_types = analyze_types(
            token_traces, types, resamples=resamples, seed=seed, confidence=confidence
        )
        tables += found_types.tables
        if len(trace.metadata.layers) > 1:
            shuffled = jax.random.fold_in(jax.random.key(seed), 1)
            continuation = (
                estimate_continuation(trace, weights, min_tokens=MIN_TOKENS),
                shuffled_continuation(trace, shuffled, SHUFFLES, min_tokens=MIN_TOKENS),
            )
            fit_error = comparison.distance["l1"][comparison.models.index("MFG")]
            tables.append(
                continuation_table(*continuation, comparison.layers, fit_error, confidence)
            )
            tables.append(_coupling(trace, weights[: COUPLED_RESAMPLES + 1], seed, confidence))
    return Analysis(
        trajectory=dataset,
        tables=tuple(tables),
        sensitivity=sensitivity,
        excess=excess,
        comparison=comparison,
        continuation=continuation,
        types=found_types,
        remarks=tuple(notes),
    )


def _excess(
    token_traces: Sequence[TokenTrace], sweep: Sweep, confidence: float
) -> dict[str, ExcessCongestion]:
    labels = dict(zip((m.revision for m in sweep.checkpoints), sweep.labels, strict=True))
    return {
        str(labels[trace.metadata.revision]): estimate_excess(trace, level=confidence)
        for trace in token_traces
        if trace.metadata.revision in labels
    }


def _coupling(trace: TokenTrace, weights, seed: int, confidence: float) -> AnalysisTable:
    statistics, few = statistics_of(trace).statistics, len(weights) - 1
    layers = estimate_checkpoint(statistics, trace.metadata.top_k, resamples=few, seed=seed)
    congestion = jnp.asarray(layers.congestion)
    found = estimate_coupling(trace, weights, congestion, min_tokens=MIN_TOKENS)
    return coupling_table(found, trace.metadata.layers, trace.metadata.revision, confidence)


def _refit_table(comparison: StaticComparison, refits: Refits, confidence: float) -> AnalysisTable:
    pairs = [*standard_pairs(comparison), ("seen load", "uniform"), ("MFG", "seen load")]
    return AnalysisTable(
        "heldout_differences_refitted",
        "Paired differences of held-out L1, every model fitted anew",
        refitted_differences(comparison, refits, pairs, confidence),
        f"Intervals: standard deviation over {len(refits.resampled)} refits on resampled texts of all three "
        "parts. over_splits: mean over other splits of the texts. Negative favours the model.",
    )


def _comparison_tables(
    comparison: StaticComparison, trace: TokenTrace, confidence: float
) -> list[AnalysisTable]:
    fit, cluster, held_out = comparison.tokens
    where = f"checkpoint {trace.metadata.revision}"
    note = (
        f"{fit} tokens to fit, {cluster} to cluster, {held_out} held out, no text in two parts. "
        "Mixture softmax and Sinkhorn see the held-out logits. BASE assignment is the uniform model."
    )
    return [
        AnalysisTable(
            "heldout_error",
            f"Held-out error by model, {where}",
            group_errors(comparison, confidence),
            note,
        ),
        AnalysisTable(
            "heldout_l1_by_layer", f"Held-out L1 by layer, {where}", layer_errors(comparison), note
        ),
        AnalysisTable(
            "heldout_congestion",
            f"Congestion fitted by the models of the comparison, {where}",
            pd.DataFrame({"layer": list(comparison.layers)} | comparison.congestion),
            "On the fitting texts; one congestion for all tokens of a layer, at temperature 1.",
        ),
        published("table4_heldout_l1", "Table 4, OLMoE-1B-7B"),
        AnalysisTable(
            "heldout_differences",
            f"Paired differences of held-out L1, {where}",
            paired_differences(comparison, standard_pairs(comparison), confidence),
            "Intervals over resampled held-out texts, fits fixed. Negative favours the model.",
        ),
        cross_architecture_table([(comparison, trace.metadata)]),
        published("table6_cross_architecture", "Table 6"),
    ]
