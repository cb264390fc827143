"""How the command speaks, as mfgjax does: results on standard output, the rest on standard error.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: no network, no memory, no disk, routing that cannot be read |
| 2 | the command line or the input is wrong |
| 130 | stopped by Ctrl-C; finished checkpoints are kept |
| 141 | the reader of the output went away (`| head`); nothing is said |
"""

import errno
import io
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

FAILED, BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141
TRACEBACK = "MFGJAX_TRACEBACK"
"""Environment variable that lets an error through with its traceback, for bug reports."""
PIPE_WIDTH = 160
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WRONG_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)


class _Stream(Console):
    """A console that leaves a closed pipe to `explained`, which ends quietly."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


results = _Stream(
    width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=True
)
messages = _Stream(stderr=True, highlight=False, soft_wrap=True)


def replace_unprintable() -> None:
    """Print `?` for what the terminal's encoding lacks (an ellipsis in ASCII), instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def silence(quiet: bool) -> bool:
    """Callback of `--quiet`: no messages and no progress; errors are still said."""
    messages.quiet = quiet
    return quiet


def show_json(document: Mapping[str, Any]) -> None:
    """Print a result for machines, as one line of JSON."""
    print(json.dumps(document, allow_nan=False, default=str))


@contextmanager
def explained() -> Iterator[None]:
    """Turn what goes wrong inside into one message and an exit code."""
    try:
        yield
        sys.stdout.flush()  # a closed pipe shows here, not after the interpreter has let go
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(PIPE_CLOSED) from None
    except KeyboardInterrupt:
        _say(
            "stopped by Ctrl-C. No file is half-written; finished checkpoints are kept. Run the same "
            "command to go on."
        )
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if hasattr(error, "exit_code") or os.environ.get(TRACEBACK):
            raise  # typer's own, which say what they mean
        message, code = _explanation(error)
        messages.quiet = False  # --quiet is not for errors
        messages.print("[bold red]error:[/] ", end="")
        _say(message)
        raise typer.Exit(code) from None


def _explanation(error: Exception) -> tuple[str, int]:
    if isinstance(error, _WRONG_PATH) and error.filename is not None:
        return f"{error.filename}: {(error.strerror or 'cannot be used').lower()}", BAD_INPUT
    if isinstance(error, ValueError):
        return str(error), BAD_INPUT
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        return "out of memory: lower --batch-tokens, or take --dtype bfloat16", FAILED
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or "no room left"
        return (
            f"{where}{reason[0].lower()}{reason[1:]}. Make room or choose another --out, then run "
            "the same command to go on: no file is half-written, finished checkpoints are kept",
            FAILED,
        )
    if isinstance(error, OSError | ImportError | RuntimeError):
        return str(error), FAILED
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno}). This "
        f"is a defect of mfgjax-extract: please report it with what {TRACEBACK}=1 shows.",
        FAILED,
    )


def _say(message: str) -> None:
    messages.quiet = False
    messages.print(message, markup=False)
