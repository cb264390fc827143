"""Classic balance metrics, per checkpoint and layer, and their percentiles over layers."""

import jax
import numpy as np
import pandas as pd

from mfgjax.metrics.per_layer import (
    PERCENTILES,
    BalanceMetrics,
    measure_balance,
    percentiles_over_layers,
)
from mfgjax.report.inputs import Inputs
from mfgjax.report.section import Section, Table
from mfgjax.trace.sweep import Sweep

_percentiles = jax.jit(percentiles_over_layers)
_NOTE = "Definitions: mfgjax.metrics. Percentiles are values of real layers, not interpolated."


def section(inputs: Inputs) -> Section:
    """Loads without any game."""
    rows, spread = _balance_rows(inputs.sweep)
    return Section(
        "Balance",
        tables=(
            Table("balance_percentiles", "Balance metrics: percentiles over layers", spread, _NOTE),
            Table("balance", "Balance metrics of every layer", rows, _NOTE),
        ),
    )


def _balance_rows(sweep: Sweep) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Metrics by checkpoint and layer; percentiles over layers by checkpoint and metric."""
    names = list(BalanceMetrics.__dataclass_fields__)
    count = np.asarray(sweep.statistics.dispatch_count).sum(1)
    metrics = measure_balance(count / count.sum(-1, keepdims=True))
    values = np.stack([np.asarray(getattr(metrics, name), float) for name in names], axis=-1)
    found = np.asarray(_percentiles(np.moveaxis(values, 1, -1)))
    rows, spread = [], []
    for index, label in enumerate(sweep.labels):
        for path, own in zip(sweep.checkpoints[index].layers, values[index].tolist(), strict=True):
            rows.append({"checkpoint": label, "layer": path} | dict(zip(names, own, strict=True)))
        for name, own in zip(names, found[index].tolist(), strict=True):
            ends = {f"p{p:g}": value for p, value in zip(PERCENTILES, own, strict=True)}
            spread.append({"checkpoint": label, "metric": name} | ends)
    return pd.DataFrame(rows), pd.DataFrame(spread)
