"""`mfgjax track`: traces of a run in, its effective-congestion trajectory out."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mfgjax.cli.console import results, say_written, show, show_json
from mfgjax.cli.failures import fail_unless_certified
from mfgjax.cli.options import (
    AsJson,
    Level,
    Memory,
    QualityName,
    Quiet,
    Resamples,
    Seed,
    Stream,
    Traces,
    out_option,
)
from mfgjax.cli.progress import progress_over

TRAJECTORY_FILES = "Folder for CSV, JSON, NetCDF and the figure."
Interval = Annotated[
    Literal["corrected", "percentile", "basic", "bca", "jackknife"],
    typer.Option(
        "--interval",
        help="corrected allows for the noise of few tokens and covers; percentile is the paper's, and "
        "misses with few or short texts.",
    ),
]


def _readable(file: Path | None) -> Path | None:
    if file is not None:
        _lines(file)
    return file


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--documents {file}: not text in UTF-8 ({error})") from None


Documents = Annotated[
    Path | None,
    typer.Option(
        "--documents",
        metavar="FILE",
        help="One line per text, naming its document: documents cut into texts stay together.",
        callback=_readable,
    ),
]


def track(
    traces: Traces,
    interval: Interval = "corrected",
    documents: Documents = None,
    out: Annotated[Path | None, out_option(TRAJECTORY_FILES)] = None,
    quality: QualityName = "mean",
    stream: Stream = "decoder",
    resamples: Resamples = 2000,
    level: Level = 0.95,
    seed: Seed = 0,
    memory: Memory = 1.0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Effective congestion per checkpoint and layer, with bootstrap intervals and phases.

    [bold]Examples[/]

      mfgjax track traces/ --out results/
      mfgjax track traces/ --resamples 500 --level 0.9 --json | jq .checkpoints
      mfgjax track traces/ --quality split-half    [dim]# does the trajectory survive?[/]
      mfgjax track traces/ --interval percentile   [dim]# what the paper reports[/]
      mfgjax track traces/ --documents names.txt   [dim]# a line per text: its document[/]

    Traces are written by mfgjax-extract. Without any, try [bold]mfgjax demo[/].
    Exit code 1 if an estimate is not certified: results and remarks say which.
    """
    document, uncertified = run_track(
        traces,
        out,
        as_json,
        quality=quality,
        interval=interval,
        documents=None if documents is None else _lines(documents),
        resamples=resamples,
        seed=seed,
        confidence=level,
        stream=stream,
        memory=memory * 1e9,
    )
    if as_json:
        show_json(document)
    fail_unless_certified(uncertified)


def run_track(
    traces: Path, out: Path | None, as_json: bool, truth: dict[int, float] | None = None, **settings
) -> tuple[dict[str, Any], int]:
    """Compute and export one trajectory, print it unless it goes into JSON.

    `truth` is the congestion that was set by hand, by step, where it is known: drawn and exported.
    Returns the JSON, where it is asked for, and how many estimates are not certified.
    """
    # Imported late, so that --help does not wait for jax.
    import mfgjax
    from mfgjax.metrics.token_shift import teacher_agreement
    from mfgjax.report.export import export_trajectory, trajectory_json
    from mfgjax.report.files import plain, write_whole
    from mfgjax.report.price_rows import price_rows
    from mfgjax.report.tables import csv_text
    from mfgjax.report.trajectory_table import remarks, trajectory_table

    with progress_over("checkpoints") as progress:
        dataset = mfgjax.track(traces, progress=progress, **settings)
    agreement = teacher_agreement(traces, settings.get("stream", "decoder"))
    price = price_rows(traces, dataset, stream=settings.get("stream", "decoder"))
    if truth is not None:
        set_by_hand = [truth[int(step)] for step in dataset.step.values]
        dataset = dataset.assign(truth=("checkpoint", set_by_hand))
    files = [] if out is None else export_trajectory(dataset, out)
    if out is not None and price is not None:
        files.append(write_whole(out / "price.csv", csv_text(price)))
    if not as_json:
        show(trajectory_table(dataset, results.width))
        for remark in remarks(dataset):
            show(f"- {remark}")
        for name, layers in agreement.items():
            shown = ", ".join(f"{value:.3f}" for value in layers)
            show(f"- top-K choices shared with the teacher, {name}, by layer: {shown}.")
        if price is not None:
            show_price(price)
    say_written(files)
    document: dict[str, Any] = {}
    if as_json:
        document = trajectory_json(dataset) | {"price": plain(price), "files": files}
        document |= {"teacher_agreement": agreement} if agreement else {}
    return document, int((dataset.status > 0).sum())


def show_price(rows) -> None:
    """The last checkpoint, a line per layer; every row is in price.csv."""
    from mfgjax.report.section import Table
    from mfgjax.report.sections.price import SHOWN, TITLE
    from mfgjax.report.tables import terminal

    last = rows[rows.checkpoint == rows.checkpoint.iloc[-1]]
    notes = dict.fromkeys(note for note in last.note if note)
    shown = tuple(name for name in SHOWN if name != "note")
    table = Table(
        "price",
        f"{TITLE}, last checkpoint",
        last,
        shown=shown,
        expendable=("checkpoint", "price_spread", "explained"),
    )
    show(terminal(table, results.width))
    for note in notes:
        layers = ", ".join(last.layer[last.note == note])
        show(f"- {note} ({layers}).")
