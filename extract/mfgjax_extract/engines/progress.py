"""Progress over tasks: one bar, and a line for each that ends, with its host and the rate."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .drive import RETRIES, Outcome, Reporter


class TaskProgress(Reporter):
    """Speaks on `console`; failures and warnings are said even where it is quiet.

    Args:
        console: of messages.
        what: tasks are, in the plural.
    """

    def __init__(self, console: Console, what: str):
        self._console = console
        self._progress = Progress(
            TextColumn(what),
            *([BarColumn(bar_width=40)] if console.width >= 80 else []),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_interactive or console.quiet,
        )
        self._bar = self._progress.add_task(what, total=None, rate="")
        self._ended = 0
        self._begun = time.monotonic()

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *_exc) -> None:
        self._progress.stop()

    def planned(self, tasks: int) -> None:
        self._progress.update(self._bar, total=tasks)

    def skipped(self, name: str) -> None:
        self._progress.advance(self._bar)
        self._say(f"{name}: done before")

    def finished(self, name: str, outcome: Outcome) -> None:
        self._ended += 1
        per_hour = 3600 * self._ended / max(time.monotonic() - self._begun, 1e-9)
        self._progress.update(self._bar, advance=1, rate=f"{per_hour:,.0f} an hour")
        if outcome.state == "written":
            self._say(f"{name}: {self.result(outcome)}")
        elif outcome.state == "failed":
            where = f" (on {outcome.host})" if outcome.host else ""
            self._say(f"{name}: failed: {outcome.reason}{where}", always=True)
        else:
            self._say(f"{name}: done before")

    def result(self, outcome: Outcome) -> str:
        """What is told of a task that wrote its files."""
        return f"{outcome.seconds:,.1f} s on {outcome.host}"

    def again(self, name: str, reason: str, attempt: int) -> None:
        self._say(f"{name}: {reason}; tried again ({attempt} of {RETRIES})")

    def waiting(self, name: str) -> None:
        self._say(f"{name}: another process writes it here; waited for at the end")

    def warning(self, words: str) -> None:
        self._say(f"warning: {words}", always=True)

    def _say(self, words: str, always: bool = False) -> None:
        quiet, self._console.quiet = self._console.quiet, self._console.quiet and not always
        self._console.print(words, highlight=False, markup=False, soft_wrap=True)
        self._console.quiet = quiet
