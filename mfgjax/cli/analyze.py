"""`mfgjax analyze`: traces in; every table and figure of the paper's analysis, and a report, out."""

from pathlib import Path
from typing import Annotated

import typer

from mfgjax.cli.console import explained, messages, progress_over, results
from mfgjax.cli.track import Confidence, Seed

ANALYZE_RESAMPLES = 500


def analyze(
    traces: Annotated[Path, typer.Argument(help="Folder of traces, one file per checkpoint.")],
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and report.html.")],
    resamples: Annotated[
        int, typer.Option(help="Bootstrap resamples of the texts, at least 1.", min=1)
    ] = ANALYZE_RESAMPLES,
    seed: Seed = 0,
    ci: Confidence = 0.95,
    stream: Annotated[str, typer.Option(help="decoder or encoder.")] = "decoder",
    types: Annotated[
        str, typer.Option(help="Numbers of token types to compare, comma-separated.")
    ] = "2,4,8",
) -> None:
    """The whole analysis: trajectory, balance, decomposition, scope, held-out comparison.

    Writes OUT/tables (CSV, Markdown, LaTeX), OUT/figures (PNG, SVG) and OUT/report.html, one file
    that opens offline. The paper's published numbers stand beside yours where they exist.

    [bold]Example[/]

      mfgjax analyze traces/ --out analysis/

    The held-out comparison and the continuation spread need the tokens form of a checkpoint.
    """
    with explained():
        # Imported late, so that --help does not wait for jax.
        from mfgjax.report.analysis import analyze as run
        from mfgjax.report.analysis_export import export_analysis

        counts = _counts(types)
        with progress_over("checkpoints") as progress:
            analysis = run(
                traces,
                resamples=resamples,
                seed=seed,
                confidence=ci,
                stream=stream,
                types=counts,
                progress=progress,
            )
        for remark in analysis.remarks:
            results.print(f"- {remark}", highlight=False, soft_wrap=True)
        for path in export_analysis(analysis, out):
            messages.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _counts(types: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(word) for word in types.split(","))
    except ValueError:
        counts = (0,)
    if min(counts) < 2:
        raise ValueError(f"--types is {types!r}; give counts of 2 or more, e.g. 2,4,8")
    return counts
