"""`mfgjax demo`: the main job on the bundled training runs."""

from pathlib import Path
from typing import Annotated

import typer

from mfgjax.cli.console import explained, results
from mfgjax.cli.track import AsJson, Confidence, Resamples, Seed, run_track


def demo(
    out: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
    run: Annotated[
        str | None, typer.Option(help="One bundled run only (default: all of them).")
    ] = None,
    resamples: Resamples = 2000,
    seed: Seed = 0,
    ci: Confidence = 0.95,
    as_json: AsJson = False,
) -> None:
    """The trajectories of the bundled training runs: no torch, no network, no data of your own.

    [bold]Examples[/]

      mfgjax demo --out results/
      mfgjax demo --run experts16
    """
    with explained():
        from mfgjax.bundled import bundled_runs

        runs = bundled_runs()
        if run is not None and run not in runs:
            raise ValueError(f"no bundled run {run!r}; there are {', '.join(runs)}")
        for name in [run] if run is not None else list(runs):
            if not as_json:
                results.print(f"\n[bold]{name}[/]: {runs[name].about}", highlight=False)
            folder = None if out is None else out / name
            run_track(runs[name].traces, folder, resamples, seed, ci, "decoder", 1.0, as_json)
