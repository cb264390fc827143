"""A trajectory as tables: rows for people, rows for machines."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from rich.table import Table


def checkpoint_frame(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per checkpoint: layer averages, intervals, phase."""
    return _frame(
        dataset, [n for n, v in dataset.items() if set(v.dims) <= {"checkpoint", "bound"}]
    )


def layer_frame(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per checkpoint and layer."""
    keep = {"checkpoint", "layer"}
    names = [n for n, v in dataset.items() if keep <= set(v.dims) <= {*keep, "bound"}]
    return _frame(dataset, names)


def _frame(dataset: xr.Dataset, names: list) -> pd.DataFrame:
    columns: dict[str, xr.DataArray] = {}
    for name in names:
        values = dataset[name]
        if "bound" in values.dims:
            for bound in ("low", "high"):
                label = f"{str(name).removesuffix('_interval')}_{bound}"
                columns[label] = values.sel(bound=bound, drop=True)
        else:
            columns[str(name)] = values
    return xr.Dataset(columns).to_dataframe().reset_index()


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON-ready dictionaries; missing numbers are None, since JSON has no NaN."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def trajectory_table(dataset: xr.Dataset) -> Table:
    """The layer-averaged trajectory for a terminal."""
    with_intervals = "mean_congestion_interval" in dataset
    title = f"{dataset.model}: M = {dataset.experts}, top-{dataset.top_k}, {dataset.texts} texts"
    table = Table(title=title, caption=_caption(dataset), title_justify="left")
    for column in ("step", "γ_eff", "signed γ", "null γ", "excess", "B0", "H", "γ/γ_c", "phase"):
        table.add_column(column, justify="left" if column == "phase" else "right", no_wrap=True)
    for label in dataset.checkpoint.values:
        row = dataset.sel(checkpoint=label)

        def cell(name: str, digits: int = 1, row=row) -> str:
            text = _number(float(row[f"mean_{name}"]), digits)
            if with_intervals and f"mean_{name}_interval" in row:
                low, high = row[f"mean_{name}_interval"].values
                text += f" [dim]\\[{_number(low, digits)}, {_number(high, digits)}][/dim]"
            return text

        table.add_row(
            str(label),
            cell("congestion"),
            cell("signed"),
            _number(float(row.mean_null), 1),
            cell("excess"),
            _number(float(row.mean_quality_spread), 2),
            _number(float(row.mean_entropy), 3),
            _number(float(row.mean_safety_margin), 1),
            _phase(row),
        )
    return table


def remarks(dataset: xr.Dataset) -> list[str]:
    """What a reader of the numbers must know: boundaries, several minima, dead experts, no phases."""
    notes = []
    cells = dataset.congestion.size
    boundary = int(dataset.at_boundary.sum())
    if boundary:
        notes.append(
            f"{boundary} of {cells} estimates sit on the boundary congestion = 0: Definition 3.1 finds "
            "no congestion there. The signed column says how far below zero they are."
        )
    several = int((dataset.minima > 1).sum())
    if several:
        notes.append(
            f"{several} of {cells} residuals have more than one local minimum: a local search could "
            "have returned a wrong one. The values here are global."
        )
    failed = int((dataset.status > 0).sum())
    if failed:
        notes.append(
            f"{failed} of {cells} fits are not certified: see the status column per layer."
        )
    dead = int((dataset.dead_experts > 0).sum())
    if dead:
        notes.append(f"{dead} of {cells} layers have experts that no token chose.")
    if "phase" in dataset:
        if set(dataset.phase.values) == {"none"}:
            gain = dataset.phase.attrs["gain"]
            notes.append(
                f"No phases are claimed: one constant level explains the trajectory (gain {gain:.1f})."
            )
        elif dataset.phase.attrs["misfit"] > 4:
            notes.append(
                "The four phase shapes fit this trajectory poorly (reduced chi-square "
                f"{dataset.phase.attrs['misfit']:.1f}): read its labels as a rough guide."
            )
    return notes


def _caption(dataset: xr.Dataset) -> str:
    level = f"{100 * dataset.confidence:g}%"
    spread = f"{level} percentile intervals, {dataset.resamples} resamples of the texts"
    return f"Layer averages; {spread if dataset.resamples else 'no intervals (0 resamples)'}."


def _number(value: float, digits: int) -> str:
    return "-" if not np.isfinite(value) else f"{value:.{digits}f}"


def _phase(row: xr.Dataset) -> str:
    if "phase" not in row:
        return "-"
    return f"{row.phase.item()} [dim]({row.phase_probability.item():.2f})[/dim]"
