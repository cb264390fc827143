"""What ends a command early: one message that says what to do, and an exit code.

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed, or an answer is not certified (the output says which) |
| 2 | the command line or the input is wrong |
| 130 | stopped by Ctrl-C |
| 141 | the reader of the output went away (`| head`); nothing is said |
"""

import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from mfgjax.cli.console import messages
from mfgjax.cli.interruption import ctrl_c_arrives

FAILED, BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141
TRACEBACK = "MFGJAX_TRACEBACK"
"""Environment variable that lets an error through with its traceback, for bug reports."""

_WRONG_PATH = (
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)


@contextmanager
def explained() -> Iterator[None]:
    """Turn what goes wrong inside into one message and an exit code."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a letter shows "?"
        stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with ctrl_c_arrives():
            yield
        sys.stdout.flush()  # a closed pipe shows here, not after the interpreter has let go
    except BrokenPipeError:
        _forget_output()
        raise typer.Exit(PIPE_CLOSED) from None
    except KeyboardInterrupt:
        _say("stopped by Ctrl-C. No file is half-written. Run the same command to start again.")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if hasattr(error, "exit_code") or os.environ.get(TRACEBACK):
            raise  # typer's own, which say what they mean
        message, code = _explanation(error)
        if isinstance(error, OSError) and error.filename is None:
            _forget_output()  # perhaps standard output is on a full disk: it would say so again
        messages.quiet = False  # --quiet is not for errors
        messages.print("[bold red]error:[/] ", end="")
        _say(message)
        raise typer.Exit(code) from None


def fail_unless_certified(uncertified: int) -> None:
    """End with exit code 1 where an answer is not certified, when all was printed and written."""
    if uncertified:
        raise typer.Exit(FAILED)


def _explanation(error: Exception) -> tuple[str, int]:
    if isinstance(error, _WRONG_PATH) and error.filename is not None:
        return f"{error.filename}: {(error.strerror or 'cannot be used').lower()}", BAD_INPUT
    if isinstance(error, ValueError):
        return str(error), BAD_INPUT
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "out of memory: lower --memory or --resamples", FAILED
    if _no_device():
        asked = os.environ.get("JAX_PLATFORMS", "")
        return (
            f"jax finds no device (JAX_PLATFORMS={asked}). Unset JAX_PLATFORMS to use what there is, "
            "or install jax for that device, e.g. pip install 'jax[cuda13]'.",
            FAILED,
        )
    if isinstance(error, OSError | ImportError) or type(error) is RuntimeError:
        return str(error), FAILED
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno}). This "
        f"is a defect of mfgjax: please report it with what {TRACEBACK}=1 shows.",
        FAILED,
    )


def _forget_output() -> None:
    """Send what is left in the buffer of standard output nowhere; the interpreter would trip on it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep numpy's, matplotlib's and scikit-learn's warnings off the terminal: they speak to the
    authors of the code, and what a user must know of a result stands in its status and remarks.

    Python's own -W and PYTHONWARNINGS win, and so does MFGJAX_TRACEBACK.
    """
    with warnings.catch_warnings():
        if not sys.warnoptions and not os.environ.get(TRACEBACK):
            warnings.simplefilter("ignore")
        yield


def _no_device() -> bool:
    """Whether jax is there but cannot run anywhere; it says so in several ways."""
    jax = sys.modules.get("jax")
    try:
        return jax is not None and not jax.devices()
    except Exception:  # a RuntimeError, or an AssertionError for a platform without its plugin
        return True


def _say(message: str) -> None:
    messages.quiet = False
    messages.print(message, markup=False, highlight=False, soft_wrap=True)
