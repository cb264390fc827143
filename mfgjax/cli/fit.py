"""`mfgjax fit`: congestion of one checkpoint, with the evidence for it."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from mfgjax.cli.console import results, say_written, show, show_json
from mfgjax.cli.failures import fail_unless_certified
from mfgjax.cli.options import AsJson, Objectives, QualityName, Quiet, listed, out_option


def fit(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="A trace, or a CSV, NPZ or NPY file.")
    ],
    out: Annotated[Path | None, out_option("Folder for fit.csv, fit.md and fit.tex.")] = None,
    objective: Objectives = "l1,kl",
    quality: QualityName = "mean",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Congestion of every layer of one checkpoint, with its evidence.

    The bound is a certificate: no congestion has a residual lower by more.
    The standard error of a trace is a jackknife over its texts; that of
    dispatch counts takes dispatches for independent (kl only).
    Exit code 1 if a layer has no certified estimate.

    [bold]Examples[/]

      mfgjax fit traces/step5000.statistics.safetensors
      mfgjax fit layer.csv --objective l1,kl,equilibrium --json

    [bold]Files without a trace[/]

      .csv  lines quality,1.2,0.3,... and load,0.7,0.3,... in turn; or a
            header with quality and load (and layer), a line per expert
      .npz  arrays quality and load, (experts) or (layers, experts)
      .npy  quality, then load: (2, experts) or (2, layers, experts)

    A load is fractions that sum to 1, or dispatch counts.
    """
    if source.is_dir():
        raise ValueError(
            f"{source}: a folder. Name one file of it, or use `mfgjax track {source}`."
        )
    if source.suffix not in (".safetensors", ".csv", ".npz", ".npy"):
        raise ValueError(f"{source}: a trace (.safetensors), .csv, .npz or .npy was expected")
    if not source.is_file():
        raise ValueError(f"{source}: no such file.")
    # Imported late, so that --help does not wait for jax.
    import mfgjax
    from mfgjax.report.fit_table import fit_table
    from mfgjax.report.section import Table
    from mfgjax.report.tables import write_table

    names = cast(Any, listed("--objective", objective, str, "l1,kl"))
    frame = mfgjax.fit(source, objectives=names, quality=quality)
    about = frame.attrs["about"]
    files = []
    if out is not None:
        files = write_table(Table("fit", f"Congestion, {source.name}", frame, about), out)
    if as_json:
        show_json({"source": source, "about": about, "fits": frame, "files": files})
    else:
        show(fit_table(frame, source.name, about, results.width))
    say_written(files)
    fail_unless_certified(int((frame.status != "CONVERGED").sum()))
