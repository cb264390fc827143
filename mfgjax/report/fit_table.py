"""Fits of congestion as rows: one per layer and objective, with the evidence for each."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.table import Table

from mfgjax.estimate.congestion.result import CongestionFit
from mfgjax.numerics.status import Status
from mfgjax.report.tables import cell, fitted

_HEADINGS = {
    "layer": "layer",
    "objective": "fit",
    "congestion": "γ ± s.e.",
    "residual": "residual",
    "certificate": "bound",
    "minima": "minima",
    "at_boundary": "at 0",
    "status": "status",
}
_EXPENDABLE = ("residual", "minima", "bound", "at 0")
"""Columns to leave out of a narrow terminal, in this order."""


def fit_frame(fits: Mapping[str, CongestionFit], layers: Sequence[str]) -> pd.DataFrame:
    """One row per layer and objective.

    Args:
        fits: by objective; each with batch axis `layer`.
        layers: their names.
    """
    rows = []
    for layer, name in enumerate(layers):
        for objective, fit in fits.items():
            rows.append(
                {
                    "layer": name,
                    "objective": objective,
                    "congestion": float(fit.congestion[layer]),
                    "standard_error": float(fit.standard_error[layer]),
                    "residual": float(fit.residual[layer]),
                    "certificate": float(fit.gap[layer]),
                    "minima": int(fit.minima[layer]),
                    "at_boundary": bool(fit.at_boundary[layer]),
                    "status": Status(int(fit.status[layer])).name,
                }
            )
    return pd.DataFrame(rows)


def fit_table(frame: pd.DataFrame, title: str, caption: str, width: int = 120) -> Table:
    """The rows of `fit_frame` for a terminal of `width` columns; narrow ones get fewer columns."""
    columns = {
        heading: [escape(cell(v, 3)) for v in frame[name].tolist()]
        for name, heading in _HEADINGS.items()
    }
    errors = frame.standard_error.tolist()
    columns["γ ± s.e."] = [
        value if np.isnan(error) else f"{value} ± {cell(error, 2)}"
        for value, error in zip(columns["γ ± s.e."], errors, strict=True)
    ]
    left = ("layer", "fit", "at 0", "status")
    return fitted(columns, _EXPENDABLE, width, title=title, caption=caption, left=left)
