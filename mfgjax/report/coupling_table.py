"""Coupled layers against layers on their own, as a table of the report."""

import numpy as np
import pandas as pd

from mfgjax.equilibrium import Status
from mfgjax.report.analysis_tables import AnalysisTable
from mfgjax.scope import Coupling

_WITH_INTERVAL = ("spread", "distance", "mean_quality_distance", "own_error", "coupled_error")


def coupling_table(
    coupling: Coupling, layers: tuple[str, ...], checkpoint: str, confidence: float
) -> AnalysisTable:
    """One row per layer.

    Args:
        coupling: point estimate in row 0, resamples after it.
        layers: names of the layers.
        checkpoint: what the numbers are of.
        confidence: level of the percentile intervals.
    """
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    frame = pd.DataFrame({"layer": layers})
    for name in Coupling.__dataclass_fields__:
        values = np.asarray(getattr(coupling, name), float)
        if name == "status":
            frame["outcome"] = [Status(int(v)).name.lower() for v in values[0]]
            continue
        frame[name] = values[0]
        if name in _WITH_INTERVAL and len(values) > 1:
            bounds = np.quantile(values[1:], ends, axis=0)
            frame[f"{name}_low"], frame[f"{name}_high"] = bounds
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
    return AnalysisTable("coupled_layers", title, frame, note)
