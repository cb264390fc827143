"""A trajectory as files: CSV for spreadsheets, JSON for machines, NetCDF for notebooks, a figure."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mfgjax.report.table_files import csv_text
from mfgjax.report.trajectory_figure import save_trajectory_figure
from mfgjax.report.trajectory_table import checkpoint_frame, layer_frame, records, remarks
from mfgjax.report.whole_file import whole_file


def trajectory_json(dataset: xr.Dataset) -> dict[str, Any]:
    """The trajectory, its settings and its remarks, ready for `json.dumps`."""
    plain = {name: _plain(value) for name, value in dataset.attrs.items()}
    phases = {
        name: _plain(value) for name, value in dataset.get("phase", xr.DataArray()).attrs.items()
    }
    return {
        "settings": plain,
        "phases": phases,
        "remarks": remarks(dataset),
        "checkpoints": records(checkpoint_frame(dataset)),
        "layers": records(layer_frame(dataset)),
    }


def export_trajectory(dataset: xr.Dataset, folder: Path) -> list[Path]:
    """Write trajectory.csv, layers.csv, trajectory.json, trajectory.nc, trajectory.png and .svg.

    Each file appears whole or not at all. Returns their paths.
    """
    text = json.dumps(trajectory_json(dataset), indent=1, allow_nan=False)
    writers: dict[str, Callable[[Path], object]] = {
        "trajectory.csv": lambda p: p.write_text(csv_text(checkpoint_frame(dataset))),
        "layers.csv": lambda p: p.write_text(csv_text(layer_frame(dataset))),
        "trajectory.json": lambda p: p.write_text(text + "\n"),
        "trajectory.nc": lambda p: dataset.to_netcdf(p, engine="h5netcdf"),
    }
    paths = []
    for name, write in writers.items():
        with whole_file(folder / name) as partial:
            write(partial)
        paths.append(folder / name)
    return paths + save_trajectory_figure(dataset, folder)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
