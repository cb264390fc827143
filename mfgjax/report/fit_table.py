"""Fits of congestion as rows: one per layer and objective, with the evidence for each."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mfgjax.estimate import CongestionFit, FitStatus

HEADINGS = {
    "layer": "layer",
    "objective": "objective",
    "congestion": "γ",
    "standard_error": "s.e.",
    "residual": "residual",
    "certificate": "certificate",
    "minima": "minima",
    "at_boundary": "boundary",
    "status": "status",
}


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


def fit_table(frame: pd.DataFrame, title: str, caption: str) -> Table:
    """The rows of `fit_frame` for a terminal."""
    table = Table(
        title=title, caption=caption, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1)
    )
    for name, heading in HEADINGS.items():
        numeric = pd.api.types.is_float_dtype(frame[name]) or name == "minima"
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if np.isfinite(value) else "-"
    return str(value)
