"""Progress of a long command on the terminal."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mfgjax.cli.console import messages

AROUND_THE_BAR = 30
"""Columns that the description, the count and the time take."""


class _Count(MofNCompleteColumn):
    """How many of how many, where that is known."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


@contextmanager
def progress_over(description: str) -> Iterator[Callable[[Sequence[int]], Iterable[int]]]:
    """A `progress` argument for the library: a bar on a terminal, silence in a pipe or a log.

    The bar shrinks with the terminal, and is the first thing to go where there is no room. After
    the last item it says that the command is at work on the rest.
    """
    room = messages.width - AROUND_THE_BAR
    bar = [BarColumn(bar_width=min(room, 40))] if room >= 5 else []
    columns = [TextColumn("{task.description}"), *bar, _Count(), TimeRemainingColumn()]
    shown = messages.is_interactive and not messages.quiet
    with Progress(*columns, console=messages, disable=not shown, transient=True) as running:

        def over(items: Sequence[int]) -> Iterator[int]:
            yield from running.track(items, description=description)
            running.add_task("tables", total=None)

        yield over
