"""Types over training as tables: one row per type, and one per layer, of each checkpoint."""

import numpy as np
import pandas as pd

from mfgjax.token_types.over_training import TypesOverTraining


def types_over_training_table(found: TypesOverTraining, confidence: float = 0.95) -> pd.DataFrame:
    """One row per checkpoint, layer and type, with percentile intervals where texts were resampled."""
    checkpoints, layers, types = found.weight.shape[1:]
    rows = []
    for at, layer, own in np.ndindex(checkpoints, layers, types):
        row: dict[str, object] = {
            "checkpoint": found.checkpoints[at],
            "layer": found.layers[layer],
            "type": own,
        }
        for name in ("weight", "quality_spread", "moved"):
            row |= _with_interval(name, getattr(found, name)[:, at, layer, own], confidence)
        row["kept"] = found.kept[at, layer, own]
        rows.append(row)
    return pd.DataFrame(rows)


def type_separation_table(found: TypesOverTraining, confidence: float = 0.95) -> pd.DataFrame:
    """One row per checkpoint and layer: how far apart the types are, and their congestion."""
    rows = []
    for at, layer in np.ndindex(found.agreement.shape):
        row: dict[str, object] = {
            "checkpoint": found.checkpoints[at],
            "layer": found.layers[layer],
        }
        for name in ("distance", "separation"):
            row |= _with_interval(name, getattr(found, name)[:, at, layer], confidence)
        row["agreement"] = found.agreement[at, layer]
        row["congestion"] = found.congestion[at, layer]
        row["congestion_of_one_type"] = found.congestion_of_one_type[at, layer]
        rows.append(row)
    return pd.DataFrame(rows)


def _with_interval(name: str, values: np.ndarray, confidence: float) -> dict[str, float]:
    low = high = np.nan
    if len(values) > 1:
        low, high = np.quantile(values[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    return {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
