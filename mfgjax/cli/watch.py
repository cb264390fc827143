"""`mfgjax watch`: a run that a monitor watches, live or as a page."""

import time
from pathlib import Path
from typing import Annotated

import typer

from mfgjax.cli.console import results, say_written, show, show_json
from mfgjax.cli.options import AsJson, Quiet


def watch(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of the run, with its monitor.jsonl.")
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C, as records come.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page instead.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Routing health and alarms of a training run.

    Reads what `mfgjax.monitor.Monitor("run/")` writes; the run may be
    going on, over, or killed.

    [bold]Examples[/]

      mfgjax watch run/                     what it says now
      mfgjax watch run/ --follow            live
      mfgjax watch run/ --html health.html  one page, no network
      mfgjax watch run/ --json | jq .alarms
    """
    from mfgjax.monitor.journal import read_journal
    from mfgjax.monitor.view import page, terminal

    found = read_journal(run)
    if html is not None:
        from mfgjax.report.files import write_whole

        say_written([write_whole(html, page(found, str(run)))])
    elif as_json:
        newest = found.records[-1].scalars(per_layer=True) if found.records else {}
        steps = [record.step for record in found.records]
        alarms = [alarm.to_row() for alarm in found.alarms]
        show_json({"steps": steps, "alarms": alarms, "newest": newest})
    elif not follow:
        show(terminal(found))
    else:
        from rich.live import Live

        with Live(terminal(found), console=results, auto_refresh=False) as live:
            while True:
                time.sleep(2)
                live.update(terminal(read_journal(run)), refresh=True)
