"""The sensitivity table of a folder of traces: objectives x qualities, as a frame."""

from pathlib import Path

import numpy as np
import pandas as pd

from mfgjax.dynamics.sweep_tokens import tokens_of_sweep
from mfgjax.estimate import SensitivityTable, estimate_sensitivity
from mfgjax.estimate.quality_choice import Quality
from mfgjax.estimate.sensitivity import SENSITIVITY_OBJECTIVES, layer_average
from mfgjax.trace import read_sweep


def sensitivity_of_traces(
    traces: str | Path,
    stream: str = "decoder",
    reference: tuple[str, Quality] = ("l1", "mean"),
    objectives: tuple[str, ...] = SENSITIVITY_OBJECTIVES,
) -> SensitivityTable:
    """Every objective and quality on a folder of traces; see `mfgjax.estimate.estimate_sensitivity`.

    Median and trimmed mean are there at the checkpoints whose tokens are in the folder.

    Raises:
        TraceError: no traces, or unsound ones.
    """
    sweep = read_sweep(traces, stream)
    return estimate_sensitivity(
        sweep.statistics,
        tokens_of_sweep(traces, sweep),
        reference=reference,
        objectives=objectives,
    )


def sensitivity_frame(table: SensitivityTable) -> pd.DataFrame:
    """One row per objective and quality: the layer average's path, and how it compares.

    `correlation`, `rank_correlation` and `shift` are with quality mean under the same objective;
    the two columns that name the reference are with it.
    """
    paths = [pd.Series(layer_average(row)).dropna() for row in table.congestion]
    reference = "_".join(table.reference).replace("-", "_")
    return pd.DataFrame(
        {
            "objective": table.objective,
            "quality": table.quality,
            "checkpoints": table.checkpoints,
            "first": [path.iloc[0] if len(path) else np.nan for path in paths],
            "lowest": [path.min() for path in paths],
            "highest": [path.max() for path in paths],
            "last": [path.iloc[-1] if len(path) else np.nan for path in paths],
            "correlation": np.concatenate([own.correlation for own in table.with_mean]),
            "rank_correlation": np.concatenate([own.rank_correlation for own in table.with_mean]),
            "shift": np.concatenate([own.shift for own in table.with_mean]),
            f"correlation_with_{reference}": table.with_reference.correlation,
            f"rank_correlation_with_{reference}": table.with_reference.rank_correlation,
            "unsolved": table.unsolved,
        }
    )
