"""`mfgjax bifurcation`: the router bifurcation model as figures and NetCDF files."""

from pathlib import Path
from typing import Annotated

import typer

from mfgjax.cli.console import say_written, show, show_json
from mfgjax.cli.options import AsJson, Quiet, out_option
from mfgjax.cli.progress import progress_over


def bifurcation(
    experiments: Annotated[
        bool,
        typer.Option("--experiments", help="Also train the small layers."),
    ] = False,
    seeds: Annotated[
        int,
        typer.Option("--seeds", metavar="N", help="Runs per strength of each experiment.", min=1),
    ] = 6,
    out: Annotated[
        Path | None, out_option("Folder for figures (PNG, SVG) and data (NetCDF).")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Pitchfork, cusp, hysteresis, M-expert collapse and potential of a router fed by its own load.

    Prints the thresholds of collapse; with --out, draws the model, for
    which diffrax must be there (the extra `bifurcation` of mfgjax).

    [bold]Examples[/]

      mfgjax bifurcation
      mfgjax bifurcation --out out/bifurcation
      mfgjax bifurcation --out out/bifurcation --experiments --seeds 10
    """
    if experiments and out is None:
        raise ValueError("--experiments draws figures: say where with --out FOLDER")
    # Imported late, so that --help does not wait for jax.
    import jax

    from mfgjax.bifurcation.atlas import (
        SHOWN_SIZES,
        draw_atlas,
        draw_experiments,
        threshold_dataset,
        threshold_table,
    )

    with jax.enable_x64(True):
        thresholds = threshold_dataset(SHOWN_SIZES)
        files = []
        if out is not None:
            with progress_over("figures") as progress:
                files += draw_atlas(out, progress)
        if out is not None and experiments:
            with progress_over("trained layers") as progress:
                files += draw_experiments(out, seeds=seeds, progress=progress)
    if as_json:
        rows = thresholds.to_dataframe().reset_index().to_dict("records")
        show_json({"thresholds": rows, "files": files})
    else:
        show(threshold_table(thresholds))
    say_written(files)
