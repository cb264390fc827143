"""How commands speak: the result on standard output, everything else on standard error."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from mfgjax.report.files import plain

PIPE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe, where there is no terminal to ask."""

LISTED = 6
"""Names at most in the line that says what was written."""


class _Stream(Console):
    """A console that leaves a closed pipe to `mfgjax.cli.failures`, which ends quietly."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


results = _Stream(width=None if sys.stdout.isatty() else PIPE_WIDTH)
messages = _Stream(stderr=True)


def silence(quiet: bool) -> bool:
    """Callback of `--quiet`: no messages and no progress; errors are still said."""
    messages.quiet = quiet
    return quiet


def show(result: RenderableType) -> None:
    """Print a result for people: a table, or text as it is, brackets included.

    A sentence breaks between words on a terminal; elsewhere, and in longer text, lines stay lines.
    """
    text = isinstance(result, str)
    soft = isinstance(result, str) and ("\n" in result or not results.is_terminal)
    results.print(result, markup=not text, highlight=False, soft_wrap=soft)


def show_json(document: Mapping[str, Any]) -> None:
    """Print a result for machines, as one line of JSON; numbers that are not finite become null."""
    print(json.dumps(plain(document), allow_nan=False))


def say(message: str) -> None:
    """Tell the user something that is not the result. Brackets are shown as they are."""
    messages.print(message, markup=False, highlight=False, soft_wrap=True)


def say_written(paths: Iterable[Path]) -> None:
    """Tell in one line what was written: the folder, and what is new in it."""
    written = list(paths)
    if not written:
        return
    folder = Path(os.path.commonpath([path.parent for path in written]))
    parts = [path.relative_to(folder).parts for path in written]
    counts = Counter(f"{first}/" if rest else first for first, *rest in parts)
    names = [f"{n} ({count})" if n.endswith("/") else n for n, count in counts.items()]
    if len(names) > LISTED:
        names[LISTED - 1 :] = [f"and {len(names) - LISTED + 1} more"]
    listed = ", ".join(names)
    files = "1 file" if len(written) == 1 else f"{len(written)} files"
    say(f"wrote {files} to {folder}: {listed}")
