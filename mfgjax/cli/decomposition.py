"""`mfgjax decomposition`: explicit and implicit congestion of the last checkpoint (Table 5)."""

from pathlib import Path
from typing import Annotated

from mfgjax.cli.console import say_written, show, show_json
from mfgjax.cli.options import (
    AsJson,
    Level,
    Memory,
    Quiet,
    Seed,
    Stream,
    Traces,
    number_option,
    out_option,
    resamples_option,
)
from mfgjax.cli.progress import progress_over


def decomposition(
    traces: Traces,
    strong: Annotated[
        float,
        number_option("--strong", "X", "Congestion from which a layer is in the strong group."),
    ] = 30.0,
    out: Annotated[Path | None, out_option("Folder for tables and figure.")] = None,
    stream: Stream = "decoder",
    resamples: Annotated[
        int, resamples_option("Bootstrap resamples of the texts, at least 1.", least=1)
    ] = 2000,
    level: Level = 0.95,
    seed: Seed = 0,
    memory: Memory = 1.0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """What the auxiliary loss asks for, what training adds, and what logit dispersion explains.

    Effective congestion of the last checkpoint's layers less alpha M (Definition 3.3), layer by
    layer and in groups, beside the paper's Table 5; with --out, as CSV, Markdown, LaTeX, PNG, SVG.

    [bold]Examples[/]

      mfgjax decomposition traces/ --out table5/
      mfgjax decomposition traces/ --json | jq .tables.decomposition_groups.rows
    """
    # Imported late, so that --help does not wait for jax.
    import mfgjax
    from mfgjax.report.analysis_figures import decomposition_figure
    from mfgjax.report.analysis_tables import decomposition_table, published
    from mfgjax.report.decomposition_groups import decomposition_groups
    from mfgjax.report.table_export import export_tables
    from mfgjax.report.table_files import markdown, tables_json

    with progress_over("checkpoints") as progress:
        dataset = mfgjax.track(
            traces,
            resamples=resamples,
            seed=seed,
            confidence=level,
            stream=stream,
            memory=memory * 1e9,
            progress=progress,
        )
    tables = [
        decomposition_groups(dataset, strong),
        decomposition_table(dataset),
        published("table5_decomposition", "Table 5, OLMoE-1B-7B"),
    ]
    files = []
    if out is not None:
        files = export_tables(tables, {"decomposition": decomposition_figure(dataset)}, out)
    if as_json:
        show_json({"tables": tables_json(tables), "files": files})
    else:
        for table in tables:
            show(markdown(table.frame, table.title, table.note))
    say_written(files)
