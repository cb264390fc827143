"""`mfgjax robustness`: the trajectory under other qualities and objectives (Figure 2)."""

from pathlib import Path
from typing import Annotated

from mfgjax.cli.console import say_written, show, show_json
from mfgjax.cli.options import AsJson, Quiet, Stream, Traces, out_option


def robustness(
    traces: Traces,
    out: Annotated[Path | None, out_option("Folder for tables and figure.")] = None,
    stream: Stream = "decoder",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Does the trajectory survive another estimate of quality, or another objective?

    Four objectives with five qualities at every checkpoint, each trajectory correlated with the
    default's, beside what the paper reports for its Figure 2. Median and trimmed mean are taken
    where a checkpoint's token logits are in the folder.

    [bold]Examples[/]

      mfgjax robustness traces/ --out figure2/
      mfgjax robustness traces/ --json | jq .tables.robustness.rows
    """
    # Imported late, so that --help does not wait for jax.
    import numpy as np

    from mfgjax.report.robustness import robustness_figure, robustness_tables
    from mfgjax.report.sensitivity import sensitivity_of_traces
    from mfgjax.report.table_export import export_tables
    from mfgjax.report.table_files import markdown, tables_json
    from mfgjax.trace import read_sweep

    sweep = read_sweep(traces, stream)
    found = sensitivity_of_traces(traces, stream)
    tables = robustness_tables(found, sweep.labels)
    files = []
    if out is not None:
        steps = np.array([np.nan if m.step is None else m.step for m in sweep.checkpoints], float)
        files = export_tables(tables, {"robustness": robustness_figure(found, steps)}, out)
    if as_json:
        show_json({"tables": tables_json(tables), "files": files})
    else:
        for table in tables:
            show(markdown(table.frame, table.title, table.note))
    say_written(files)
