"""Every figure of the model and the data behind it, into one folder."""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
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

Progress = Callable[[Sequence[int]], Iterable[int]]

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


def draw_atlas(folder: Path, progress: Progress = lambda figures: figures) -> list[Path]:
    """Write the figures of the model, PNG and SVG, each with its NetCDF file; returns the paths.

    Args:
        folder: where to.
        progress: wraps the iteration over figures, e.g. in a progress bar.

    Raises:
        ImportError: diffrax, which integrates the sweeps, is not installed.
    """
    if not importlib.util.find_spec("diffrax"):
        raise ImportError(
            "this needs diffrax, which mfgjax installs only when asked: "
            "pip install 'mfgjax[bifurcation]'"
        )
    sizes = np.unique(np.round(np.geomspace(2, 256, 60)).astype(int))
    parts: dict[str, Callable[[], tuple[Figure | None, xr.Dataset | None]]] = {
        "branches": lambda: _drawn(two.branches_figure, branches_dataset()),
        "control_plane": lambda: _drawn(two.control_plane_figure, folds_dataset()),
        "hysteresis": lambda: _drawn(two.hysteresis_figure, hysteresis_dataset()),
        "landscape": lambda: _drawn(two.landscape_figure, landscape_dataset()),
        "empirical": lambda: _drawn(two.empirical_figure, empirical_dataset()),
        "many_experts": lambda: _drawn(
            lambda data: many.collapse_figure(data, sizes, threshold_dataset(sizes)),
            collapse_dataset(),
        ),
        "continuation": lambda: (_continuation(), None),
        "thresholds": lambda: (None, threshold_dataset(sizes)),
    }
    names, paths = list(parts), []
    for index in progress(range(len(names))):
        paths += _write(folder, names[index], *parts[names[index]]())
    return paths


def _drawn(draw: Callable[[xr.Dataset], Figure], data: xr.Dataset) -> tuple[Figure, xr.Dataset]:
    return draw(data), data


def _continuation() -> Figure:
    diagrams = [
        feedback_diagram(jnp.asarray(quality), feedback_range=(1.0, 4.0))
        for quality in ([0.0, 0.0, 0.0], [0.02, 0.0, -0.02], [0.3, 0.0, -0.1])
    ]
    titles = ["3 equal experts", "quality 0.02, 0, −0.02", "quality 0.3, 0, −0.1"]
    return many.diagram_figure(diagrams, titles)


def draw_experiments(
    folder: Path, *, seeds: int, progress: Progress = lambda runs: runs
) -> list[Path]:
    """Train the small layers, write their figure and data.

    Args:
        folder: where to.
        seeds: runs per strength.
        progress: wraps the iteration over kinds of layers, e.g. in a progress bar.
    """
    from mfgjax.bifurcation.experiments.sweep import blobs_task, digits_task, sweep_strengths
    from mfgjax.bifurcation.experiments.trainable_moe import Training

    near = np.array([0.4, 0.7, 0.85, 0.95, 1.05, 1.2, 1.4, 1.7, 2.0])
    wide = np.array([0.25, 0.75, 1.25, 1.75, 2.0, 2.25, 2.5, 3.0, 4.0])
    top1 = Training(routing=Routing.NOISY_TOP1)
    reader = Training(batch_size=64, hidden=3, content=True, learning_rate=0.005)
    blobs, digits = blobs_task(), digits_task()
    balanced = reader._replace(aux_loss_coef=1.0)
    kinds = {
        "softmax": (blobs, near, Training()),
        "noisy top-1": (blobs, near, top1),
        "no auxiliary loss": (digits, wide, reader),
        "auxiliary loss 1": (digits, wide, balanced),
    }
    names, found = list(kinds), {}
    for index in progress(range(len(names))):
        task, strengths, training = kinds[names[index]]
        found[names[index]] = sweep_strengths(task, strengths, seeds=seeds, training=training)
    runs = {name: found[name] for name in names[:2]}
    classifiers = {name: found[name] for name in names[2:]}
    titles = {f"trained layer, {name}": data for name, data in runs.items()}
    paths = _write(folder, "training", many.training_figure(titles, classifiers), None)
    for name, data in (runs | classifiers).items():
        paths += _write(folder, "training_" + name.replace(" ", "_"), None, data)
    return paths


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
