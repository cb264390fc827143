"""Fits of congestion as rows: one per layer and objective, with the evidence for each."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mfgjax.estimate import CongestionFit, FitStatus

_HEADINGS = {
    "layer": "layer",
    "objective": "fit",
    "congestion": "γ",
    "standard_error": "s.e.",
    "residual": "residual",
    "certificate": "bound",
    "minima": "minima",
    "at_boundary": "at 0",
    "status": "status",
}
_EXPENDABLE = ("residual", "minima", "certificate", "at_boundary", "standard_error")
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
                    "status": FitStatus(int(fit.status[layer])).name,
                }
            )
    return pd.DataFrame(rows)


def fit_table(frame: pd.DataFrame, title: str, caption: str, width: int = 120) -> Table:
    """The rows of `fit_frame` for a terminal of `width` columns; narrow ones get fewer columns."""
    table = _table(frame, title, caption)
    for name in _EXPENDABLE:
        if Console(width=500).measure(table).maximum <= width:
            break
        frame = frame.drop(columns=name)
        table = _table(frame, title, caption + " More columns in a wider terminal.")
    return table


def _table(frame: pd.DataFrame, title: str, caption: str) -> Table:
    table = Table(
        title=title, caption=caption, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in frame.columns:
        left = name in ("layer", "objective", "at_boundary", "status")
        table.add_column(_HEADINGS[name], justify="left" if left else "right", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if np.isfinite(value) else "-"
    return str(value)
