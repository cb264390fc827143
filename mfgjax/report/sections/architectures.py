"""Does the game predict load better than the uniform load? One row per model (Table 6)."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from mfgjax.comparison.compare import StaticComparison
from mfgjax.estimate.inference.interval import confidence_interval
from mfgjax.report.inputs import Inputs
from mfgjax.report.reference import published
from mfgjax.report.section import Section, Table
from mfgjax.report.verdict import estimate, number, texts_to_tell
from mfgjax.trace import TraceMetadata


def section(inputs: Inputs) -> Section | None:
    """The row of this model, beside the paper's models."""
    if not inputs.tokens:
        return None
    compared = [(inputs.comparison, inputs.tokens[-1].metadata)]
    table = cross_architecture_table(compared, inputs.confidence)
    return Section(
        "Against the uniform load",
        verdict=(_verdict(table.frame.iloc[0], len(inputs.comparison.split.held_out)),),
        tables=(table, published("table6_cross_architecture", "Table 6")),
    )


def _verdict(row: pd.Series, texts: int) -> str:
    """Held-out MFG against the uniform load."""
    ends = (row.difference_low, row.difference_high)
    found = (
        f"On held-out texts the game misses the load by {number(row.l1_mfg)} (L1), the uniform load by "
        f"{number(row.l1_uniform)}; difference {estimate(row.difference, ends)}"
    )
    told = {"yes": "the game is nearer.", "no": "the uniform load is nearer."}
    told["not resolved"] = f"not resolved. {texts_to_tell(texts, ends, abs(row.difference))}"
    return f"{found}: {told[row.mfg_wins]}"


def cross_architecture_table(
    compared: Iterable[tuple[StaticComparison, TraceMetadata]], confidence: float = 0.95
) -> Table:
    """Table 6: whether the game predicts held-out load better than uniform, one row per model.

    Args:
        compared: comparison and metadata of each model.
        confidence: level of the interval that decides.
    """
    rows = [_architecture_row(*one, confidence) for one in compared]
    rows.sort(key=lambda row: -row["k_over_m"])
    note = f"mfg_wins by the {100 * confidence:g}% paired interval of the difference to the uniform load."
    shown = (
        "model",
        "revision",
        "experts",
        "k_over_m",
        "l1_mfg",
        "l1_uniform",
        "difference",
        "mfg_wins",
    )
    return Table(
        "cross_architecture",
        "Scope by architecture",
        pd.DataFrame(rows),
        note,
        shown,
        ("revision", "experts"),
    )


def _architecture_row(
    comparison: StaticComparison, metadata: TraceMetadata, confidence: float
) -> dict[str, Any]:
    index = {name: i for i, name in enumerate(comparison.models)}
    mean = comparison.distance["l1"].mean(-1)
    drawn = comparison.resampled[:, index["MFG"]] - comparison.resampled[:, index["uniform"]]
    low, high = confidence_interval(drawn.mean(-1), confidence)
    return {
        "model": metadata.model,
        "revision": metadata.revision,
        "experts": metadata.experts,
        "top_k": metadata.top_k,
        "k_over_m": metadata.top_k / metadata.experts,
        "l1_mfg": mean[index["MFG"]],
        "l1_temperature_softmax": mean[index["temperature softmax"]],
        "l1_uniform": mean[index["uniform"]],
        "difference": mean[index["MFG"]] - mean[index["uniform"]],
        "difference_low": low,
        "difference_high": high,
        "mfg_wins": "yes" if high < 0 else "no" if low > 0 else "not resolved",
    }
