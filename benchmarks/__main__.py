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

_WITH_JSON = """
    equilibrium solver_survey congestion trajectory recovery excess_power refit_coverage theory coupled_layers
    collapse_margin bifurcation extraction slimming sweep_engines price_coverage token_coverage first_answer
    coverage_lengths coverage_track coverage_corrected price lab gaussian_moe silent_faults monitor_overhead monitor
    coverage
"""
_WITHOUT = """
    warm_start solve_parts permutation_null sensitivity token_types architectures calibration fit_by_gradient controller
    lab_results lab_readback lab_shocks
"""
"""They only print, or know where their results are."""
_MORE = {
    "trajectory": ["--large"],
    "token_types": ["--draws=5", "--types=1,2,4,8,16"],
    "coverage": ["--replicates=1000", "--resamples=512"],
}
SUITE: dict[str, list[str]] = {
    **{name: _MORE.get(name, []) for name in _WITHOUT.split()},
    **{
        name: [*_MORE.get(name, []), f"--json=benchmarks/results/{name}.json"]
        for name in _WITH_JSON.split()
    },
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
