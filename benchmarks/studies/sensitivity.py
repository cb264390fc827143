"""Does the trajectory survive another objective or quality? Figure 2's question on the bundled runs.

    python -m benchmarks.studies.sensitivity

Every objective with every quality, at all 20 checkpoints of each run; median and trimmed mean at the
three whose tokens are bundled. Writes benchmarks/results/sensitivity.{json,md}.
"""

import pandas as pd
import typer

from benchmarks.record import RESULTS, Cell, keep, table
from mfgjax.bundled import bundled_runs
from mfgjax.estimate.inference.sensitivity import SENSITIVITY_OBJECTIVES
from mfgjax.report.inputs import Inputs
from mfgjax.report.sections.sensitivity import sensitivity_frame


def markdown(record: dict) -> str:
    """The table with two digits; a dash where there is nothing to compare."""

    def cell(name: str) -> Cell:
        def shown(row: dict) -> object:
            value = row[name]
            return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else value

        return shown

    rows = record["rows"]
    return table(rows, {name.replace("_", " "): cell(name) for name in rows[0]}) + "\n"


def main() -> None:
    """Both runs, l1 mean as the reference."""
    frames = []
    for name, run in bundled_runs().items():
        frame = sensitivity_frame(Inputs(run.traces, objectives=SENSITIVITY_OBJECTIVES).sensitivity)
        frame.insert(0, "run", name)
        frames.append(frame)
    frame = pd.concat(frames, ignore_index=True)
    print(markdown(keep(RESULTS / "sensitivity.json", markdown, rows=frame)), end="")


if __name__ == "__main__":
    typer.run(main)
