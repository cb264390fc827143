"""`mfgjax demo`: the main job on the bundled training runs."""

from pathlib import Path
from typing import Annotated

import typer

from mfgjax.cli.console import show, show_json
from mfgjax.cli.failures import fail_unless_certified
from mfgjax.cli.options import AsJson, Level, Memory, Quiet, Resamples, Seed, out_option
from mfgjax.cli.track import TRAJECTORY_FILES, run_track


def demo(
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="NAME", help="One bundled run only (default: all of them)."),
    ] = None,
    out: Annotated[Path | None, out_option(TRAJECTORY_FILES)] = None,
    resamples: Resamples = 2000,
    level: Level = 0.95,
    seed: Seed = 0,
    memory: Memory = 1.0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The trajectories of the bundled training runs: no torch, no network, no data of your own.

    A table per run; with --out also CSV, JSON, NetCDF and its figure.

    [bold]Examples[/]

      mfgjax demo --out results/
      mfgjax demo --run experts16 --resamples 200
    """
    from mfgjax.bundled import bundled_runs

    runs = bundled_runs()
    if run is not None and run not in runs:
        raise ValueError(f"no bundled run {run!r}; there are {', '.join(runs)}")
    documents, uncertified = {}, 0
    for name in [run] if run is not None else list(runs):
        if not as_json:
            show(f"\n{name}: {runs[name].about}")
        documents[name], here = run_track(
            runs[name].traces,
            None if out is None else out / name,
            as_json,
            runs[name].truth,
            resamples=resamples,
            seed=seed,
            confidence=level,
            memory=memory * 1e9,
        )
        uncertified += here
    if as_json:
        show_json({"runs": documents})
    fail_unless_certified(uncertified)
