"""Slimming against dropping experts, and the routing through both: `python -m benchmarks.slimming`.

Each seed trains a small OLMoE teacher and a dozen students of it (`slimming_runs.py`); figures are gaps of
held-out loss to the teacher, in nats per byte, and differences are paired within a seed. Every expectation
is printed with what came of it, the failed ones too.

    python -m benchmarks.slimming --demo       # one seed, two stages
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from scipy.special import stdtrit

from benchmarks.slimming_runs import Size, run_seed

CONSOLE = Console(stderr=True, highlight=False)


def main(
    runs: Annotated[Path, typer.Option(help="Folder of finished seeds and their traces.")] = Path(
        "runs/slimming"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Teachers, each with its students.")] = 5,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
) -> None:
    """Run the seeds that are not there yet, then compare. About a quarter of an hour of one core."""
    torch.set_num_threads(1)
    size = Size()
    [_seed(runs, seed, size) for seed in range(seeds)]


def _seed(runs: Path, seed: int, size: Size) -> dict[str, Any]:
    """One seed, from its file if it is there."""
    path = runs / f"seed{seed}.json"
    if not path.exists():
        found = run_seed(seed, size, runs / "traces", CONSOLE.print)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(found | {"size": vars(size)}, indent=1) + "\n")
        partial.replace(path)
    return json.loads(path.read_text())


def interval(values: np.ndarray) -> list[float]:
    """Mean of paired differences with the 95% interval of Student's t."""
    reach = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values)))
    mean = float(values.mean())
    return [mean, mean - reach, mean + reach]


if __name__ == "__main__":
    typer.run(main)
