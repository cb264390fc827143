"""`mfgjax analyze`: traces in; every table and figure of the paper's analysis, and a report, out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mfgjax.cli.console import results, say_written, show, show_json
from mfgjax.cli.failures import fail_unless_certified
from mfgjax.cli.options import (
    AsJson,
    Level,
    Quiet,
    Seed,
    SomeResamples,
    Stream,
    Traces,
    listed,
    out_option,
)
from mfgjax.cli.progress import progress_over

if TYPE_CHECKING:
    from mfgjax.report.section import Section

_MOST_ROWS = 40
"""Rows of a table that is printed; a longer one would push what was found out of sight."""


def analyze(
    traces: Traces,
    types: Annotated[
        str,
        typer.Option(
            "--types", metavar="N,N", help="Numbers of token types to compare, separated by commas."
        ),
    ] = "2,4,8",
    out: Annotated[Path | None, out_option("Folder for tables, figures and report.html.")] = None,
    stream: Stream = "decoder",
    resamples: SomeResamples = 500,
    level: Level = 0.95,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The whole analysis: trajectory, balance, decomposition, scope, held-out comparison.

    Prints what was found, and the short tables. With --out, prints no
    tables and writes FOLDER/tables (CSV, Markdown, LaTeX), FOLDER/figures
    (PNG, SVG, PDF) and FOLDER/report.html, one file that opens offline. The
    paper's published numbers stand beside yours where they exist.

    [bold]Examples[/]

      mfgjax analyze traces/ --out analysis/
      mfgjax analyze traces/ --resamples 100 --json | jq .tables.scope_card.rows

    The held-out comparison and the continuation spread need the tokens
    form of a checkpoint. Exit code 1 if an estimate of the trajectory is
    not certified: the remarks count them.
    """
    # Imported late, so that --help does not wait for jax.
    from mfgjax.report.analysis import analyze as run
    from mfgjax.report.analysis import export_analysis
    from mfgjax.report.tables import tables_json, terminal

    counts = listed("--types", types, int, "2,4,8")
    if min(counts) < 2:
        raise ValueError(f"--types is {types!r}; give counts of 2 or more, e.g. 2,4,8")
    with progress_over("checkpoints") as progress:
        analysis = run(
            traces,
            resamples=resamples,
            seed=seed,
            confidence=level,
            stream=stream,
            types=counts,
            progress=progress,
        )
    files = [] if out is None else export_analysis(analysis, out)
    if as_json:
        found = {"verdict": analysis.verdict, "remarks": analysis.remarks}
        show_json(found | {"tables": tables_json(analysis.tables), "files": files})
    else:
        for line in (*analysis.verdict, "", *analysis.remarks):
            show(f"- {line}" if line else "")
        tables = analysis.tables if out is None else ()
        long = [table for table in tables if len(table.frame) > _MOST_ROWS]
        for table in tables:
            if len(table.frame) <= _MOST_ROWS:
                show(terminal(table, results.width))
        if long:
            named = ", ".join(f"{table.name} ({len(table.frame)} rows)" for table in long)
            show(f"- Too long for here, written with --out FOLDER: {named}.")
    say_written(files)
    fail_unless_certified(int((analysis.trajectory.status > 0).sum()))


def show_section(section: "Section", out: Path | None, as_json: bool) -> None:
    """One section as a command of its own: its tables on the terminal or as JSON, and as files."""
    from mfgjax.report.analysis import export_sections
    from mfgjax.report.tables import tables_json, terminal

    files = [] if out is None else export_sections([section], out)[0]
    if as_json:
        show_json({"tables": tables_json(section.tables), "files": files})
    else:
        for line in section.verdict:
            show(line)
        for table in section.tables:
            show(terminal(table, results.width))
    say_written(files)
