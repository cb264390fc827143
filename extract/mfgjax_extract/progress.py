"""Progress on the terminal: of a sweep (checkpoints, texts, tokens per second), of a slimming run."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mfgjax_extract.revisions import Revision
from mfgjax_extract.sweep import Reporter
from mfgjax_extract.texts import EncodedTexts

AROUND_THE_BAR = 62
"""Columns that revision, counts, rate and times take; the bar and the times go first."""


class SweepProgress(Reporter):
    """Draws two bars; on a terminal that cannot, prints one line per checkpoint.

    Attributes:
        checkpoints: what became of each so far, for `--json`.
    """

    def __init__(self, console: Console, checkpoints: int):
        self._console = console
        self.checkpoints: list[dict[str, Any]] = []
        room = console.width - AROUND_THE_BAR
        bar = [BarColumn(bar_width=min(room, 40))] if room >= 5 else []
        times = [TimeElapsedColumn(), TimeRemainingColumn()] if room >= 5 else []
        self._progress = Progress(
            TextColumn("{task.description}"),
            *bar,
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            *times,
            console=console,
            disable=not console.is_interactive or console.quiet,
        )
        self._checkpoints = self._progress.add_task("checkpoints", total=checkpoints, rate="")
        self._texts = self._progress.add_task("texts", total=None, rate="")
        self._tokens = 0
        self._started = 0.0

    def __enter__(self) -> "SweepProgress":
        self._progress.start()
        return self

    def __exit__(self, *_exc) -> None:
        self._progress.stop()

    def start(self, revision: Revision, texts: EncodedTexts) -> None:
        empty = sum(not ids for ids in texts.ids)
        if empty:
            self._console.print(f"{empty} of {len(texts.ids)} texts hold no tokens")
        self._progress.reset(
            self._texts, total=len(texts.ids) - empty, description=revision.name, rate=""
        )
        self._tokens = 0
        self._started = time.monotonic()

    def batch(self, texts: int, tokens: int) -> None:
        self._tokens += tokens
        self._progress.update(self._texts, advance=texts, rate=f"{self._rate():,.0f} tok/s")

    def done(self, revision: Revision, paths: list[Path]) -> None:
        self._progress.advance(self._checkpoints)
        self.checkpoints.append(
            {
                "revision": revision.name,
                "written": True,
                "tokens": self._tokens,
                "files": [str(path) for path in paths],
            }
        )
        size = sum(p.stat().st_size for p in paths) / 1e6
        self._console.print(
            f"{revision.name}: {self._tokens:,} tokens, {self._rate():,.0f} tok/s, "
            f"{len(paths)} files, {size:.1f} MB",
            highlight=False,
        )

    def skipped(self, revision: Revision) -> None:
        self._progress.advance(self._checkpoints)
        self.checkpoints.append({"revision": revision.name, "written": False})
        self._console.print(f"{revision.name}: done before", highlight=False)

    def failed(self, revision: Revision, reason: str) -> None:
        self._progress.advance(self._checkpoints)
        self.checkpoints.append({"revision": revision.name, "written": False, "failed": reason})
        quiet, self._console.quiet = self._console.quiet, False  # --quiet is not for errors
        self._console.print(f"{revision.name}: failed: {reason}", highlight=False, markup=False)
        self._console.quiet = quiet

    def waiting(self, revision: Revision) -> None:
        self._console.print(
            f"{revision.name}: another process writes it here; waiting", highlight=False
        )

    def _rate(self) -> float:
        return self._tokens / max(time.monotonic() - self._started, 1e-9)


class SlimProgress:
    """A bar of the stage in training with its loss; a line per model."""

    def __init__(self, console: Console, stages: int):
        self._console, self._stages = console, stages
        columns = (
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns, console=console, disable=not console.is_interactive or console.quiet
        )
        self._task = self._progress.add_task("scoring", total=None, loss="")

    def __enter__(self) -> "SlimProgress":
        self._progress.start()
        return self

    def __exit__(self, *_exc) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def step(self, stage: int, step: int, steps: int, loss: float) -> None:
        description = f"stage {stage + 1} of {self._stages}"
        shown = f"loss {loss:.4f}"
        self._progress.update(
            self._task, description=description, completed=step, total=steps, loss=shown
        )
