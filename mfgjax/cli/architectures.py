"""`mfgjax architectures`: the game against the uniform load, one row per model (Table 6)."""

from pathlib import Path
from typing import Annotated

import typer

from mfgjax.cli.console import results, say_written, show, show_json
from mfgjax.cli.options import AsJson, Quiet, Seed, Stream, check_traces, out_option


def architectures(
    traces: Annotated[
        list[Path],
        typer.Argument(
            metavar="TRACES...",
            help="Folders of traces, one per model.",
            callback=lambda folders: [check_traces(folder) for folder in folders],
        ),
    ],
    out: Annotated[Path | None, out_option("Folder for CSV, Markdown and LaTeX.")] = None,
    stream: Stream = "decoder",
    resamples: Annotated[
        int,
        typer.Option(
            "--resamples", metavar="N", min=1, help="Bootstrap resamples of the held-out texts."
        ),
    ] = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Does the game predict load better than uniform? One row per model, by K/M.

    Each folder needs the tokens form of a checkpoint; the latest one is used.

    [bold]Example[/]

      mfgjax architectures olmoe/ mixtral/ jetmoe/ --out table6/
    """
    # Imported late, so that --help does not wait for jax.
    from mfgjax.comparison import compare_static
    from mfgjax.report.sections.architectures import cross_architecture_table
    from mfgjax.report.tables import tables_json, terminal, write_table
    from mfgjax.trace.sweep import read_token_traces

    compared = []
    for folder in traces:
        found = read_token_traces(folder, stream, last_only=True)
        if not found:
            raise ValueError(
                f"{folder}: no {stream} trace with token logits (*.tokens.safetensors); have "
                "mfgjax-extract write the tokens form of one checkpoint"
            )
        comparison = compare_static(found[0], types=(), resamples=resamples, seed=seed)
        compared.append((comparison, found[0].metadata))
    table = cross_architecture_table(compared)
    files = [] if out is None else write_table(table, out)
    if as_json:
        show_json({"tables": tables_json([table]), "files": files})
    else:
        show(terminal(table, results.width))
    say_written(files)
