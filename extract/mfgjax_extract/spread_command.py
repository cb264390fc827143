"""`mfgjax-extract --on WHERE`: options in, progress over tasks out."""

import os
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mfgjax_extract.console import messages, show_json
from mfgjax_extract.engines import Engine, engine_for
from mfgjax_extract.engines.per_checkpoint import check_device, parse_per_checkpoint
from mfgjax_extract.revisions import Revision
from mfgjax_extract.spread import RETRIES, SpreadReporter, spread
from mfgjax_extract.sweep_settings import SweepSettings
from mfgjax_extract.task import Outcome


def spread_over(
    on: str,
    per_checkpoint: str,
    revisions: list[Revision],
    texts: list[str],
    settings: SweepSettings,
    delete_downloads: bool,
    retry: list[str],
    as_json: bool,
) -> list[Revision]:
    """Run the sweep on what `--on` names.

    Returns:
        The checkpoints that failed; the reason of each was said.

    Raises:
        ValueError: options that mean nothing, or not together.
        ImportError: the engine's package is not installed.
    """
    per = parse_per_checkpoint(per_checkpoint)
    check_device(per, settings.device)
    threads = per.cpu or (_share_of_cores(on) if on.startswith("local:") else 1)

    def engine() -> Engine:
        return engine_for(on, per, settings.out.resolve())

    with SpreadProgress(messages, len(revisions), as_json) as progress:
        return spread(
            revisions, texts, settings, engine, progress, threads, delete_downloads, retry
        )


def _share_of_cores(on: str) -> int:
    workers = on.removeprefix("local:")
    return (
        max((os.cpu_count() or 1) // int(workers), 1) if workers.isdigit() and int(workers) else 1
    )


class SpreadProgress(SpreadReporter):
    """One bar over checkpoints, one line for each that ends, with its host and its rate."""

    def __init__(self, console: Console, checkpoints: int, as_json: bool):
        self._console = console
        self._as_json = as_json
        self._progress = Progress(
            TextColumn("checkpoints"),
            *([BarColumn(bar_width=40)] if console.width >= 80 else []),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_interactive or console.quiet,
        )
        self._bar = self._progress.add_task("checkpoints", total=checkpoints, rate="")
        self._ended = 0
        self._begun = time.monotonic()

    def __enter__(self) -> "SpreadProgress":
        self._progress.start()
        return self

    def __exit__(self, *_exc) -> None:
        self._progress.stop()

    def skipped(self, revision: Revision) -> None:
        self._progress.advance(self._bar)
        self._say(f"{revision.name}: done before")
        self._line({"revision": revision.name, "written": False})

    def finished(self, revision: Revision, outcome: Outcome) -> None:
        self._ended += 1
        per_hour = 3600 * self._ended / max(time.monotonic() - self._begun, 1e-9)
        self._progress.update(self._bar, advance=1, rate=f"{per_hour:,.0f} an hour")
        record: dict[str, Any] = {
            "revision": revision.name,
            "written": outcome.state == "written",
            "host": outcome.host,
            "seconds": round(outcome.seconds, 3),
        }
        if outcome.state == "written":
            size = sum(file.bytes for file in outcome.files) / 1e6
            record["tokens"] = outcome.tokens
            record["files"] = [{"path": f.path, "digest": f.digest} for f in outcome.files]
            self._say(
                f"{revision.name}: {outcome.tokens:,} tokens in {outcome.seconds:,.1f} s on "
                f"{outcome.host}, {len(outcome.files)} files, {size:.1f} MB"
            )
        elif outcome.state == "failed":
            record["failed"] = outcome.reason
            where = f" (on {outcome.host})" if outcome.host else ""
            self._say(f"{revision.name}: failed: {outcome.reason}{where}", always=True)
        else:
            self._say(f"{revision.name}: done before")
        self._line(record)

    def again(self, revision: Revision, reason: str, attempt: int) -> None:
        self._say(f"{revision.name}: {reason}; tried again ({attempt} of {RETRIES})")

    def waiting(self, revision: Revision) -> None:
        self._say(f"{revision.name}: another process writes it here; waited for at the end")

    def warning(self, words: str) -> None:
        self._say(f"warning: {words}", always=True)

    def _line(self, record: dict[str, Any]) -> None:
        if self._as_json:
            show_json(record)

    def _say(self, words: str, always: bool = False) -> None:
        quiet, self._console.quiet = self._console.quiet, self._console.quiet and not always
        self._console.print(words, highlight=False, markup=False)
        self._console.quiet = quiet
