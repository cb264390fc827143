"""Layers in the groups of the paper's Table 5, with what dispersion explains of each."""

import numpy as np
import pandas as pd
import xarray as xr

from mfgjax.estimate import decompose_congestion
from mfgjax.estimate.scope import IN_SCOPE_CONGESTION
from mfgjax.report.analysis_tables import AnalysisTable

STRONG = 30.0
"""Congestion from which a layer is in the strong group; the paper does not say where it cut."""


def decomposition_groups(dataset: xr.Dataset, strong: float = STRONG) -> AnalysisTable:
    """Groups of layers of the last checkpoint, and all layers together.

    Args:
        dataset: as `mfgjax.track` returns it.
        strong: congestion from which a layer is in the strong group.
    """
    last = dataset.isel(checkpoint=-1)
    alpha = float(dataset.aux_loss_coef)
    values = last.congestion.values
    parts = decompose_congestion(values, alpha, dataset.experts, strong=strong)
    groups = {group.name: list(group.layers) for group in parts.groups}
    groups["all layers"] = list(range(values.size))
    drawn = last.congestion_resamples.values if "congestion_resamples" in last else None
    ends = [(1 - dataset.confidence) / 2, (1 + dataset.confidence) / 2]
    rows = []
    for name, layers in groups.items():
        row = {"group": name, "layers": ", ".join(map(str, layers)), "layer_count": len(layers)}
        if layers:
            row["congestion"] = values[layers].mean()
            if drawn is not None:
                bounds = np.quantile(drawn[:, layers].mean(-1), ends)
                row["congestion_low"], row["congestion_high"] = bounds
            # Nothing to split where there is no congestion.
            split = row["congestion"] > IN_SCOPE_CONGESTION
            row["explicit"] = parts.explicit
            row["implicit"] = row["congestion"] - parts.explicit if split else np.nan
            row["implicit_over_explicit"] = row["implicit"] / parts.explicit if alpha else np.nan
            for part in ("signed", "null", "excess"):
                row[part] = last[part].values[layers].mean()
        rows.append(row)
    note = (
        f"Congestion above 0.05 is in scope, from {strong:g} on strong. Groups are of the estimate; intervals keep "
        "them fixed. excess = signed - null: what is left of the signed congestion when token-level logit "
        "dispersion, which needs no balancing, is taken off. implicit counts it all."
    )
    title = f"Decomposition by groups of layers, checkpoint {last.checkpoint.item()}"
    return AnalysisTable("decomposition_groups", title, pd.DataFrame(rows), note)
