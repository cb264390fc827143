"""`mfgjax decomposition`: explicit and implicit congestion of the last checkpoint (Table 5)."""

from pathlib import Path
from typing import Annotated

from mfgjax.cli.analyze import show_section
from mfgjax.cli.failures import fail_unless_certified
from mfgjax.cli.options import (
    AsJson,
    Level,
    Memory,
    Quiet,
    Seed,
    SomeResamples,
    Stream,
    Traces,
    number_option,
    out_option,
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
    resamples: SomeResamples = 2000,
    level: Level = 0.95,
    seed: Seed = 0,
    memory: Memory = 1.0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """What the auxiliary loss asks for, what training adds, and what logit dispersion explains.

    Effective congestion of the last checkpoint's layers less alpha M
    (Definition 3.3), layer by layer and in groups, beside the paper's Table
    5; with --out, as CSV, Markdown, LaTeX, and its figure.

    [bold]Examples[/]

      mfgjax decomposition traces/ --out table5/
      mfgjax decomposition traces/ --json | jq .tables.decomposition_groups.rows
    """
    # Imported late, so that --help does not wait for jax.
    from mfgjax.report.inputs import Inputs
    from mfgjax.report.sections.decomposition import section

    with progress_over("checkpoints") as progress:
        inputs = Inputs(
            traces,
            stream,
            resamples,
            seed,
            level,
            strong=strong,
            memory=memory * 1e9,
            progress=progress,
        )
        found = section(inputs)
    show_section(found, out, as_json)
    fail_unless_certified(int((inputs.dataset.status.isel(checkpoint=-1) > 0).sum()))
