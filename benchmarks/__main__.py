"""Every benchmark, then the tables: `python -m benchmarks [NAME ...]`, or `make bench`.

Each runs in a process of its own, because some need their own XLA settings. One that fails does not
stop the others, and leaves its old results in place.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

ROOT = Path(__file__).parent.parent
RESULTS = "benchmarks/results"

SUITE: dict[str, list[str]] = {
    "equilibrium": [
        f"--json={RESULTS}/equilibrium.json",
        f"--markdown={RESULTS}/equilibrium.md",
    ],
    "solver_survey": [f"--json={RESULTS}/solver_survey.json"],
    "warm_start": [],
    "congestion": [f"--json={RESULTS}/congestion.json"],
    "trajectory": ["--large", f"--json={RESULTS}/trajectory.json"],
    "recovery": [f"--json={RESULTS}/recovery.json"],
    "permutation_null": [],
    "excess_power": [f"--json={RESULTS}/excess_power.json"],
    "refit_coverage": [f"--json={RESULTS}/refit_coverage.json"],
    "sensitivity": [],
    "token_types": ["--draws=5", "--types=1,2,4,8,16"],
    "architectures": [],
    "theory": [f"--json={RESULTS}/theory.json"],
    "coupled_layers": [f"--json={RESULTS}/coupled_layers.json"],
    "collapse_margin": [f"--json={RESULTS}/collapse_margin.json"],
    "bifurcation": [f"--json={RESULTS}/bifurcation.json"],
    "calibration": [],
    "extraction": [f"--json={RESULTS}/extraction.json"],
    "slimming": [f"--json={RESULTS}/slimming.json"],
    "sweep_engines": [f"--json={RESULTS}/sweep_engines.json"],
    "fit_by_gradient": [],
    "price_coverage": [f"--json={RESULTS}/price_coverage.json"],
    "token_coverage": [f"--json={RESULTS}/token_coverage.json"],
    "first_answer": [f"--json={RESULTS}/first_answer.json"],
    "coverage_lengths": [f"--json={RESULTS}/coverage_lengths.json"],
    "coverage_track": [f"--json={RESULTS}/coverage_track.json"],
    "coverage_corrected": [f"--json={RESULTS}/coverage_corrected.json"],
    "price": [f"--json={RESULTS}/price.json"],
    "controller": [],
    "lab_results": [],
    "lab_readback": [],
    "lab_shocks": [],
    "lab": [f"--json={RESULTS}/lab.json"],
    "gaussian_moe": [f"--json={RESULTS}/gaussian_moe.json"],
    "silent_faults": [
        f"--json={RESULTS}/silent_faults.json",
        f"--markdown={RESULTS}/silent_faults.md",
    ],
    "monitor_overhead": [f"--json={RESULTS}/monitor_overhead.json"],
    "monitor": [f"--json={RESULTS}/monitor.json", f"--markdown={RESULTS}/monitor.md"],
    "coverage": [
        "--replicates=1000",
        "--resamples=512",
        f"--json={RESULTS}/coverage.json",
    ],
}
"""Arguments of the run whose results are kept; the longest (coverage, half an hour) comes last."""


def module_of(name: str) -> str:
    """Benchmarks measure speed; the studies beside them measure what is true, and how often."""
    study = importlib.util.find_spec(f"benchmarks.studies.{name}")
    return study.name if study else f"benchmarks.{name}"


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Some of: {', '.join(SUITE)}. Default: all.")
    ] = None,
) -> None:
    """Run benchmarks and rewrite the tables of the docs. All take about two hours."""
    console = Console(stderr=True)
    chosen = names or list(SUITE)
    unknown = [name for name in chosen if name not in SUITE]
    if unknown:
        raise typer.BadParameter(f"no benchmark {', '.join(unknown)}; there are {', '.join(SUITE)}")
    failed = []
    for place, name in enumerate(chosen, 1):
        console.rule(f"{name} ({place} of {len(chosen)})")
        command = [sys.executable, "-m", module_of(name), *SUITE[name]]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
    subprocess.run([sys.executable, "-m", "benchmarks.pages"], cwd=ROOT, check=True)
    if failed:
        console.print(f"failed, old results kept: {', '.join(failed)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
