"""Every figure of the model and the data behind it, into one folder."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mfgjax.bifurcation import many_expert_figures as many
from mfgjax.bifurcation import two_expert_figures as two
from mfgjax.bifurcation.datasets import (
    branches_dataset,
    collapse_dataset,
    empirical_dataset,
    folds_dataset,
    hysteresis_dataset,
    landscape_dataset,
)
from mfgjax.bifurcation.diagram import feedback_diagram
from mfgjax.bifurcation.simulate import Routing
from mfgjax.bifurcation.symmetric import symmetric_thresholds
from mfgjax.report.files import whole_file

_EXTRAS = {"bifurcation": ["diffrax"], "experiments": ["flax", "optax", "sklearn"]}
"""Modules behind the optional dependencies of pyproject.toml that drawing needs."""


SHOWN_SIZES = np.array([2, 3, 8, 64, 128])
"""Numbers of experts in the table that the command prints."""


def threshold_table(thresholds: xr.Dataset) -> Table:
    """Fold, Maxwell point and spinodal of equal experts (`threshold_dataset`), for a terminal."""
    table = Table(
        title="Feedback at which one of M equal experts can take all load",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for name in ("experts M", "possible (fold)", "preferred (Maxwell)", "forced (spinodal)"):
        table.add_column(name, justify="right")
    for size in thresholds.experts.values:
        row = thresholds.sel(experts=size)
        values = (row.fold, row.maxwell, row.spinodal)
        table.add_row(str(size), *(f"{float(value):.4f}" for value in values))
    return table


def threshold_dataset(sizes: np.ndarray) -> xr.Dataset:
    """The three thresholds over the number of experts."""
    values = jax.jit(jax.vmap(symmetric_thresholds))(jnp.asarray(sizes, float))
    names = ("fold", "maxwell", "spinodal", "fold_load")
    return xr.Dataset(
        {name: ("experts", np.asarray(getattr(values, name))) for name in names},
        coords={"experts": sizes},
        attrs={"units": "feedback = -congestion / temperature"},
    )


def draw_atlas(folder: Path) -> list[Path]:
    """Write the figures of the model, PNG and SVG, each with its NetCDF file; returns the paths.

    Raises:
        ImportError: diffrax, which integrates the sweeps, is not installed.
    """
    _require("bifurcation")
    sizes = np.unique(np.round(np.geomspace(2, 256, 60)).astype(int))
    branches, folds, loops = branches_dataset(), folds_dataset(), hysteresis_dataset()
    landscape, collapse, empirical = landscape_dataset(), collapse_dataset(), empirical_dataset()
    table = threshold_dataset(sizes)
    diagrams = [
        feedback_diagram(jnp.asarray(quality), feedback_range=(1.0, 4.0))
        for quality in ([0.0, 0.0, 0.0], [0.02, 0.0, -0.02], [0.3, 0.0, -0.1])
    ]
    titles = ["3 equal experts", "quality 0.02, 0, −0.02", "quality 0.3, 0, −0.1"]
    paths = []
    for name, figure, data in (
        ("branches", two.branches_figure(branches), branches),
        ("control_plane", two.control_plane_figure(folds), folds),
        ("hysteresis", two.hysteresis_figure(loops), loops),
        ("landscape", two.landscape_figure(landscape), landscape),
        ("empirical", two.empirical_figure(empirical), empirical),
        ("many_experts", many.collapse_figure(collapse, sizes, table), collapse),
        ("continuation", many.diagram_figure(diagrams, titles), None),
        ("thresholds", None, table),
    ):
        paths += _write(folder, name, figure, data)
    return paths


def draw_experiments(folder: Path, *, seeds: int) -> list[Path]:
    """Train the small layers, write their figure and data.

    Raises:
        ImportError: what they need is not installed.
    """
    _require("experiments")
    from mfgjax.bifurcation.experiments import Training, blobs_task, digits_task, sweep_strengths

    near = np.array([0.4, 0.7, 0.85, 0.95, 1.05, 1.2, 1.4, 1.7, 2.0])
    wide = np.array([0.25, 0.75, 1.25, 1.75, 2.0, 2.25, 2.5, 3.0, 4.0])
    top1 = Training(routing=Routing.NOISY_TOP1)
    reader = Training(batch_size=64, hidden=3, content=True, learning_rate=0.005)
    blobs, digits = blobs_task(), digits_task()
    runs = {
        "softmax": sweep_strengths(blobs, near, seeds=seeds, training=Training()),
        "noisy top-1": sweep_strengths(blobs, near, seeds=seeds, training=top1),
    }
    balanced = reader._replace(aux_loss_coef=1.0)
    classifiers = {
        "no auxiliary loss": sweep_strengths(digits, wide, seeds=seeds, training=reader),
        "auxiliary loss 1": sweep_strengths(digits, wide, seeds=seeds, training=balanced),
    }
    titles = {f"trained layer, {name}": data for name, data in runs.items()}
    paths = _write(folder, "training", many.training_figure(titles, classifiers), None)
    for name, data in (runs | classifiers).items():
        paths += _write(folder, "training_" + name.replace(" ", "_"), None, data)
    return paths


def _require(extra: str) -> None:
    missing = [module for module in _EXTRAS[extra] if not importlib.util.find_spec(module)]
    if missing:
        raise ImportError(
            f"this needs {' and '.join(missing)}, which mfgjax installs only when asked: "
            f"pip install 'mfgjax[{extra}]'"
        )


def _write(folder: Path, name: str, figure: Figure | None, data: xr.Dataset | None) -> list[Path]:
    """Write what is there, each file whole or not at all."""
    writers = {}
    if figure is not None:
        writers[f"{name}.png"] = lambda p: figure.savefig(p, dpi=160, format="png")
        writers[f"{name}.svg"] = lambda p: figure.savefig(p, format="svg")
    if data is not None:
        writers[f"{name}.nc"] = lambda p: data.to_netcdf(p, engine="h5netcdf")
    paths = []
    for file, write in writers.items():
        with whole_file(folder / file) as partial:
            write(partial)
        paths.append(folder / file)
    return paths
