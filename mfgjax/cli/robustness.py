"""`mfgjax robustness`: the trajectory under other qualities and objectives (Figure 2)."""

from pathlib import Path
from typing import Annotated

from mfgjax.cli.analyze import show_section
from mfgjax.cli.options import AsJson, Quiet, Stream, Traces, out_option
from mfgjax.cli.progress import progress_over


def robustness(
    traces: Traces,
    out: Annotated[Path | None, out_option("Folder for tables and figure.")] = None,
    stream: Stream = "decoder",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Does the trajectory survive another estimate of quality, or another objective?

    Four objectives with five qualities at every checkpoint, each trajectory
    correlated with the default's, beside what the paper reports for its
    Figure 2. Median and trimmed mean are taken where a checkpoint's token
    logits are in the folder.

    [bold]Examples[/]

      mfgjax robustness traces/ --out figure2/
      mfgjax robustness traces/ --json | jq .tables.robustness.rows
    """
    # Imported late, so that --help does not wait for jax.
    from mfgjax.estimate.inference.sensitivity import SENSITIVITY_OBJECTIVES
    from mfgjax.report.inputs import Inputs
    from mfgjax.report.sections.sensitivity import section

    with progress_over("checkpoints") as progress:
        inputs = Inputs(traces, stream, objectives=SENSITIVITY_OBJECTIVES, progress=progress)
        found = section(inputs)
    show_section(found, out, as_json)
