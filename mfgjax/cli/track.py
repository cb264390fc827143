"""`mfgjax track`: traces of a run in, its effective-congestion trajectory out."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mfgjax.cli.console import explained, messages, progress_over, results

Resamples = Annotated[
    int, typer.Option(help="Bootstrap resamples of the texts; 0 for none.", min=0)
]
Seed = Annotated[int, typer.Option(help="Seed of the bootstrap: equal seeds, equal results.")]
Confidence = Annotated[float, typer.Option("--ci", help="Level of the intervals, between 0 and 1.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]


def track(
    traces: Annotated[Path, typer.Argument(help="Folder of traces, one file per checkpoint.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for CSV, JSON, NetCDF and the figure.")
    ] = None,
    resamples: Resamples = 2000,
    seed: Seed = 0,
    ci: Confidence = 0.95,
    stream: Annotated[str, typer.Option(help="decoder or encoder.")] = "decoder",
    memory: Annotated[float, typer.Option(help="Gigabytes for resamples in flight.", min=0)] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Effective congestion per checkpoint and layer, with bootstrap intervals and phases.

    [bold]Examples[/]

      mfgjax track traces/ --out results/
      mfgjax track traces/ --resamples 500 --ci 0.9 --json | jq .checkpoints

    Traces are written by mfgjax-extract. Without any, try [bold]mfgjax demo[/].
    """
    with explained():
        run_track(traces, out, resamples, seed, ci, stream, memory, as_json)


def run_track(
    traces: Path,
    out: Path | None,
    resamples: int,
    seed: int,
    ci: float,
    stream: str,
    memory: float,
    as_json: bool,
) -> None:
    """Compute, print and export one trajectory."""
    # Imported late, so that --help does not wait for jax.
    import mfgjax
    from mfgjax.report.export import export_trajectory, trajectory_json
    from mfgjax.report.trajectory_table import remarks, trajectory_table

    with progress_over("checkpoints") as progress:
        dataset = mfgjax.track(
            traces,
            resamples=resamples,
            seed=seed,
            confidence=ci,
            stream=stream,
            memory=memory * 1e9,
            progress=progress,
        )
    if as_json:
        print(json.dumps(trajectory_json(dataset), allow_nan=False))
    else:
        results.print(trajectory_table(dataset, results.width))
        for remark in remarks(dataset):
            results.print(f"- {remark}", highlight=False, soft_wrap=True)
    if out is not None:
        for path in export_trajectory(dataset, out):
            messages.print(f"wrote {path}", highlight=False, soft_wrap=True)
