"""`mfgjax architectures`: the game against the uniform load, one row per model (Table 6)."""

from pathlib import Path
from typing import Annotated

import typer

from mfgjax.cli.console import explained, messages, results


def architectures(
    traces: Annotated[list[Path], typer.Argument(help="Folders of traces, one per model.")],
    out: Annotated[Path | None, typer.Option(help="Folder for CSV, Markdown and LaTeX.")] = None,
    resamples: Annotated[
        int, typer.Option(help="Bootstrap resamples of the held-out texts.", min=1)
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the split and the bootstrap.")] = 0,
    stream: Annotated[str, typer.Option(help="decoder or encoder.")] = "decoder",
) -> None:
    """Does the game predict load better than uniform? One row per model, by K/M.

    Each folder needs the tokens form of a checkpoint; the latest one is used.

    [bold]Example[/]

      mfgjax architectures olmoe/ mixtral/ jetmoe/ --out table6/
    """
    with explained():
        # Imported late, so that --help does not wait for jax.
        from mfgjax.comparison import compare_static
        from mfgjax.report.analysis import last_token_trace
        from mfgjax.report.analysis_tables import cross_architecture_table
        from mfgjax.report.table_files import markdown, write_table

        compared = []
        for folder in traces:
            trace = last_token_trace(folder, stream)
            if trace is None:
                raise ValueError(
                    f"{folder}: no {stream} trace with token logits (*.tokens.safetensors); have "
                    "mfgjax-extract write the tokens form of one checkpoint"
                )
            found = compare_static(trace, types=(), resamples=resamples, seed=seed)
            compared.append((found, trace.metadata))
        table = cross_architecture_table(compared)
        text = markdown(table.frame, table.title, table.note)
        results.print(text, highlight=False, soft_wrap=True)
        if out is not None:
            for path in write_table(
                table.frame, out, table.name, title=table.title, note=table.note
            ):
                messages.print(f"wrote {path}", highlight=False, soft_wrap=True)
