"""Does the trajectory survive another objective or quality? Figure 2's question on the bundled runs.

    python -m benchmarks.studies.sensitivity

Every objective with every quality, at all 20 checkpoints of each run; median and trimmed mean at the
three whose tokens are bundled. Writes benchmarks/results/sensitivity.{json,md}.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import typer

from benchmarks.environment import environment
from mfgjax.bundled import bundled_runs
from mfgjax.estimate.inference.sensitivity import SENSITIVITY_OBJECTIVES
from mfgjax.report.files import plain
from mfgjax.report.inputs import Inputs
from mfgjax.report.sections.sensitivity import sensitivity_frame

RESULTS = Path(__file__).parents[1] / "results"


def markdown(frame: pd.DataFrame) -> str:
    """The table with two digits; a dash where there is nothing to compare."""
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|---" * frame.shape[1] + "|"]
    for row in frame.itertuples(index=False):
        cells = [_cell(value) for value in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.2f}" if np.isfinite(value) else "-"
    return str(value)


def main() -> None:
    """Both runs, l1 mean as the reference."""
    frames = []
    for name, run in bundled_runs().items():
        frame = sensitivity_frame(Inputs(run.traces, objectives=SENSITIVITY_OBJECTIVES).sensitivity)
        frame.insert(0, "run", name)
        frames.append(frame)
    frame = pd.concat(frames, ignore_index=True)
    content = {"environment": environment(), "rows": plain(frame)}
    (RESULTS / "sensitivity.json").write_text(json.dumps(content, indent=1) + "\n")
    frame.columns = [str(column).replace("_", " ") for column in frame.columns]
    (RESULTS / "sensitivity.md").write_text(markdown(frame))
    print(markdown(frame), end="")


if __name__ == "__main__":
    typer.run(main)
