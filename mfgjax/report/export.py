"""A trajectory as files: CSV for spreadsheets, JSON for machines, NetCDF for notebooks, a figure."""

import json
from pathlib import Path
from typing import Any

import xarray as xr

from mfgjax.report.files import plain, whole_file, write_whole
from mfgjax.report.tables import csv_text
from mfgjax.report.trajectory_table import checkpoint_frame, layer_frame, remarks


def trajectory_json(dataset: xr.Dataset) -> dict[str, Any]:
    """The trajectory, its settings and its remarks, ready for `json.dumps`."""
    return plain(
        {
            "settings": dataset.attrs,
            "phases": dataset.get("phase", xr.DataArray()).attrs,
            "remarks": remarks(dataset),
            "checkpoints": checkpoint_frame(dataset),
            "layers": layer_frame(dataset),
        }
    )


def export_trajectory(dataset: xr.Dataset, folder: Path) -> list[Path]:
    """Write trajectory.csv, layers.csv, .json and .nc of the trajectory, and its figure.

    Each file appears whole or not at all. Returns their paths.
    """
    from mfgjax.report.figures import rendered_figure, trajectory_figure  # late: matplotlib

    text = json.dumps(trajectory_json(dataset), indent=1, allow_nan=False)
    contents: dict[str, str | bytes] = {
        "trajectory.csv": csv_text(checkpoint_frame(dataset)),
        "layers.csv": csv_text(layer_frame(dataset)),
        "trajectory.json": text + "\n",
    }
    drawn = rendered_figure(trajectory_figure(dataset))
    contents |= {f"trajectory.{end}": content for end, content in drawn.items()}
    paths = [write_whole(folder / name, content) for name, content in contents.items()]
    with whole_file(folder / "trajectory.nc") as partial:
        dataset.to_netcdf(partial, engine="h5netcdf")
    return [*paths, folder / "trajectory.nc"]
