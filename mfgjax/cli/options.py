"""Arguments and options that several commands share: one name, one meaning, one place in the help.

Commands list their own options first, then those they share in the order of this file.
"""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from mfgjax.cli.console import silence

T = TypeVar("T")


def check_traces(folder: Path) -> Path:
    """Say of a wrong path at once what `mfgjax.trace` would say when jax has been imported."""
    if folder.is_file():
        raise ValueError(f"{folder}: a file. Name its folder, or use `mfgjax fit` for one file.")
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder of traces. Look at the path; without traces of your own, "
            "`mfgjax demo` has some."
        )
    if not any("safetensors" in path.name for path in [*folder.iterdir(), *folder.glob("*/*")]):
        raise ValueError(
            f"{folder}: no traces in it (*.statistics.safetensors, *.tokens.safetensors). Write some "
            "with mfgjax-extract, or run `mfgjax demo` for the bundled ones."
        )
    return folder


Traces = Annotated[
    Path,
    typer.Argument(
        metavar="TRACES", help="Folder of traces, one file per checkpoint.", callback=check_traces
    ),
]


def out_option(help: str):
    """`--out`, checked before any work is done: a long run must not end at an unwritable folder."""
    return typer.Option("--out", metavar="FOLDER", help=help, callback=_writable)


def _writable(folder: Path | None) -> Path | None:
    if folder is None:
        return None
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"--out {folder}: {existing} is a file. Choose another folder.")
    try:  # permissions do not tell of a read-only or a full disk; this leaves nothing behind
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise ValueError(
            f"--out {folder}: cannot write in {existing} ({error.strerror}). Choose another folder."
        ) from None
    return folder


def number_option(name: str, metavar: str, help: str, least: float | None = None):
    """An option that takes a number, and neither nan nor inf, which pass for floats."""

    def finite(value: float) -> float:
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; a number was expected")
        return value

    return typer.Option(name, metavar=metavar, min=least, help=help, callback=finite)


Objectives = Annotated[
    str,
    typer.Option(
        "--objective",
        metavar="NAME,NAME",
        help="l1 (Definition 3.1, at least 0), kl (signed), equilibrium (solved, at least 0).",
    ),
]
QualityName = Annotated[
    Literal["mean", "median", "trimmed", "split-half", "log-probability"],
    typer.Option(
        "--quality",
        help="What stands for an expert's quality: location of its logits, or log probability. "
        "split-half takes the load from texts of its own; median and trimmed need tokens.",
    ),
]
Stream = Annotated[
    Literal["decoder", "encoder"],
    typer.Option("--stream", help="Which stack of an encoder-decoder."),
]
Resamples = Annotated[
    int,
    typer.Option(
        "--resamples", metavar="N", min=0, help="Bootstrap resamples of the texts; 0 for none."
    ),
]
SomeResamples = Annotated[
    int,
    typer.Option(
        "--resamples", metavar="N", min=1, help="Bootstrap resamples of the texts, at least 1."
    ),
]
Level = Annotated[
    float,
    typer.Option("--level", "--ci", metavar="X", help="Level of the intervals, between 0 and 1."),
]
Seed = Annotated[
    int,
    typer.Option("--seed", metavar="N", help="Of all random numbers: equal seeds, equal results."),
]
Memory = Annotated[
    float,
    number_option("--memory", "GB", "Gigabytes for a block of resamples.", least=0),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress, no messages; errors only.", callback=silence),
]


def listed(option: str, text: str, kind: Callable[[str], T], example: str) -> tuple[T, ...]:
    """The values of an option that takes several, separated by commas."""
    try:
        return tuple(kind(word.strip()) for word in text.split(","))
    except ValueError:
        raise ValueError(f"{option} is {text!r}; separate values by commas: {example}") from None
