"""Token types in the analysis: how many, found by which way, and what became of them in training."""

import dataclasses

import pandas as pd

from mfgjax.report.analysis_tables import AnalysisTable
from mfgjax.token_types import (
    TypesOverTraining,
    cross_validate_types,
    track_types,
    type_count_table,
    type_fit_table,
    type_load_table,
    type_separation_table,
    types_over_training_table,
)
from mfgjax.trace import TokenTrace

PAPER_TYPES = 4
"""Types of the multi-type model of arXiv 2604.04230, followed over training where it is tried."""
FOLDS = 3
REFERENCES = 5


@dataclasses.dataclass(frozen=True)
class TypeAnalysis:
    """What the report shows of token types.

    Attributes:
        tables: in the order of the report.
        counts: as `type_count_table` returns it, for the figure.
        over_training: over the checkpoints with token logits.
    """

    tables: tuple[AnalysisTable, ...]
    counts: pd.DataFrame
    over_training: TypesOverTraining


def analyze_types(
    traces: list[TokenTrace],
    types: tuple[int, ...],
    *,
    resamples: int,
    seed: int,
    confidence: float,
) -> TypeAnalysis:
    """Number of types and ways to find them at the last checkpoint, types over all of them.

    Args:
        traces: checkpoints with token logits, in training order, at least one.
        types: numbers of types to try, each at least 2; 1 is always tried beside them.
        resamples: of the texts, at least 1.
        seed: of folds, starts and resamples.
        confidence: level of the percentile intervals.
    """
    last = traces[-1]
    where = f"checkpoint {last.metadata.revision}"
    held = cross_validate_types(last, (1, *sorted(types)), folds=FOLDS, seed=seed)
    counts = type_count_table(last, held, references=REFERENCES, seed=seed)
    followed = PAPER_TYPES if PAPER_TYPES in types else max(types)
    over = track_types(traces, followed, resamples=resamples, seed=seed)
    tables = (
        AnalysisTable(
            "type_count",
            f"How many token types, {where}",
            counts,
            f"log_likelihood: nats per token of logits and choices, every text held out once in "
            f"{FOLDS} folds. likelihood_chooses: smallest number within two standard errors of the "
            "best; at the largest tried, more may be better still. gap_chooses: '-' where the gap "
            "still grows. stability: adjusted Rand index between resamples of the texts.",
        ),
        AnalysisTable(
            "type_fit",
            f"Types by likelihood less types by k-means, held out, {where}",
            type_fit_table(held, resamples=resamples, confidence=confidence, seed=seed),
            "joint (nats per token) and choice (nats per dispatch, given the logits) favour the "
            "likelihood fit where positive, l1 of the load where negative. Paired over texts. joint counts "
            "the scatter too, which k-means plugs in: at one type that is nearly all of it.",
        ),
        AnalysisTable(
            "type_load",
            f"Held-out L1 of the load by types, {where}",
            type_load_table(held),
            "Congestion by likelihood at the equilibrium in both columns, medians over layers and folds. seen load: the "
            "fitting texts' own load, without a model.",
        ),
        AnalysisTable(
            "types_over_training",
            f"{followed} token types over training",
            types_over_training_table(over, confidence),
            "A type's number follows its tokens; type 0 is the largest at the last checkpoint. "
            "moved: root mean square change of quality over experts since the checkpoint before; kept: "
            "share of its tokens that were in it before. Intervals: texts resampled, fits fixed.",
        ),
        AnalysisTable(
            "type_separation",
            f"{followed} token types over training: how far apart",
            type_separation_table(over, confidence),
            "separation: share of the logits' variance between types; agreement: adjusted Rand index "
            "with the checkpoint before; congestion by likelihood at the equilibrium (1e4: the bound, where the "
            "load is uniform), of the types and of all tokens as one type.",
        ),
    )
    return TypeAnalysis(tables, counts, over)
