"""Progress of a long command on the terminal."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mfgjax.cli.console import messages

AROUND_THE_BAR = 30
"""Columns that the description, the count and the time take."""


@contextmanager
def progress_over(description: str) -> Iterator[Callable[[Sequence[int]], Iterable[int]]]:
    """A `progress` argument for the library: a bar on a terminal, silence in a pipe or a log.

    The bar shrinks with the terminal, and is the first thing to go where there is no room.
    """
    room = messages.width - AROUND_THE_BAR
    bar = [BarColumn(bar_width=min(room, 40))] if room >= 5 else []
    columns = [TextColumn("{task.description}"), *bar, MofNCompleteColumn(), TimeRemainingColumn()]
    shown = messages.is_interactive and not messages.quiet
    with Progress(*columns, console=messages, disable=not shown, transient=True) as running:
        yield lambda items: running.track(items, description=description)
