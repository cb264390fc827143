"""How commands speak: results on standard output, progress and errors on standard error."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PIPE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe, where there is no terminal to ask."""

results = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
messages = Console(stderr=True)


@contextmanager
def explained() -> Iterator[None]:
    """Turn errors that a user can mend into one line and exit code 1, Ctrl-C into exit code 130."""
    try:
        yield
    except (ValueError, OSError) as error:
        messages.print("[bold red]error:[/] ", end="")
        messages.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        messages.print("stopped; files already written are whole", highlight=False)
        raise typer.Exit(130) from None


@contextmanager
def progress_over(description: str):
    """A `progress` argument for the library: a bar on a terminal, silence in a pipe."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=messages,
        disable=not messages.is_terminal,
        transient=True,
    )
    with bar:
        yield lambda items: bar.track(items, description=description)
