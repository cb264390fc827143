"""`mfgjax compare`: two runs or two checkpoints, and what differs between them."""

from pathlib import Path
from typing import Annotated

import typer

from mfgjax.cli.console import say_written, show, show_json
from mfgjax.cli.failures import fail_unless_certified
from mfgjax.cli.options import (
    AsJson,
    Level,
    Quiet,
    Seed,
    SomeResamples,
    Stream,
    check_traces,
    out_option,
)
from mfgjax.cli.progress import progress_over


def _trace(path: Path) -> Path:
    return path if path.is_file() else check_traces(path)


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="A", help="A trace, or a folder: its last.", callback=_trace)
    ],
    second: Annotated[
        Path, typer.Argument(metavar="B", help="What it is compared with.", callback=_trace)
    ],
    same_experts: Annotated[
        bool,
        typer.Option(
            "--same-experts",
            help="Expert i of A is expert i of B, though their names differ (base and SFT).",
        ),
    ] = False,
    out: Annotated[Path | None, out_option("Folder for table and figure.")] = None,
    stream: Stream = "decoder",
    resamples: SomeResamples = 2000,
    level: Level = 0.95,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """What differs between two checkpoints, layer by layer: load, congestion, entropy, B0.

    Of one model (or with --same-experts) also congestion at one scale of
    the logits and, where token logits are kept, shared top-K choices and
    the divergence of the gates.

    Where both saw the same texts they are compared text by text. Intervals
    are corrected for the number of layers: all of one quantity hold together.
    Exit code 1 if a fit is not certified.

    [bold]Examples[/]

      mfgjax compare baseline/ balanced/
      mfgjax compare step100.tokens.safetensors step5000.tokens.safetensors
      mfgjax compare base/ sft/ --same-experts
      mfgjax compare a/ b/ --out a-b/ --json | jq '.rows[] | select(.differs)'
    """
    # Imported late, so that --help does not wait for jax.
    import mfgjax
    from mfgjax.report.analysis import export_sections
    from mfgjax.report.compare_table import compare_remarks, compare_section, compare_table

    with progress_over("checkpoints") as progress:
        frame = mfgjax.compare(
            first,
            second,
            resamples=resamples,
            seed=seed,
            confidence=level,
            stream=stream,
            same_experts=True if same_experts else None,
            progress=progress,
        )
    notes = compare_remarks(frame)
    files = []
    if out is not None:
        files, _ = export_sections([compare_section(frame)], out)
    if as_json:
        show_json({"about": frame.attrs, "remarks": notes, "rows": frame, "files": files})
    else:
        show(compare_table(frame))
        for note in notes:
            show(f"- {note}")
    say_written(files)
    fail_unless_certified(frame.attrs["uncertified"])
