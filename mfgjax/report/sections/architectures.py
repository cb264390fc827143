"""Does the game predict load better than the uniform load? One row per model (Table 6)."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from mfgjax.comparison import StaticComparison
from mfgjax.report.inputs import Inputs
from mfgjax.report.reference import published
from mfgjax.report.section import Section, Table
from mfgjax.trace import TraceMetadata


def section(inputs: Inputs) -> Section | None:
    """The row of this model, beside the paper's models."""
    if not inputs.tokens:
        return None
    table = cross_architecture_table([(inputs.comparison, inputs.tokens[-1].metadata)])
    return Section(
        "Against the uniform load",
        verdict=(_verdict(table.frame.iloc[0]),),
        tables=(table, published("table6_cross_architecture", "Table 6")),
    )


def _verdict(row: pd.Series) -> str:
    """Held-out MFG against the uniform load."""
    ends = f"[{row.difference_low:.3g}, {row.difference_high:.3g}]"
    found = (
        f"On held-out texts the game misses the load by {row.l1_mfg:.3g} (L1) and the uniform load by "
        f"{row.l1_uniform:.3g}; difference {ends}"
    )
    told = {
        "yes": "the game is nearer",
        "no": "the uniform load is nearer",
        "not resolved": "not resolved, these texts do not tell",
    }
    return f"{found}: {told[row.mfg_wins]}."


def cross_architecture_table(
    compared: Iterable[tuple[StaticComparison, TraceMetadata]],
) -> Table:
    """Table 6: whether the game predicts held-out load better than uniform, one row per model."""
    rows = [_architecture_row(comparison, metadata) for comparison, metadata in compared]
    rows.sort(key=lambda row: -row["k_over_m"])
    note = "mfg_wins by the 95% paired interval of the difference to the uniform load."
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
    return Table("cross_architecture", "Scope by architecture", pd.DataFrame(rows), note, shown)


def _architecture_row(comparison: StaticComparison, metadata: TraceMetadata) -> dict[str, Any]:
    index = {name: i for i, name in enumerate(comparison.models)}
    mean = comparison.distance["l1"].mean(-1)
    drawn = comparison.resampled[:, index["MFG"]] - comparison.resampled[:, index["uniform"]]
    low, high = np.quantile(drawn.mean(-1), [0.025, 0.975])
    return {
        "model": metadata.model,
        "revision": metadata.revision,
        "experts": metadata.experts,
        "top_k": metadata.top_k,
        "k_over_m": metadata.top_k / metadata.experts,
        "l1_mfg": mean[index["MFG"]],
        "l1_temperature_softmax": mean[index["temperature softmax"]],
        "l1_uniform": mean[index["uniform"]],
        "difference_low": low,
        "difference_high": high,
        "mfg_wins": "yes" if high < 0 else "no" if low > 0 else "not resolved",
    }
