"""Every check, as JSON, Markdown and a figure.

    python -m benchmarks.studies.theory --json benchmarks/results/theory.json

Writes theory.md and theory.png beside the JSON. About a minute.
"""

import json
from typing import Annotated

import jax
import numpy as np
import pandas as pd
import typer

from benchmarks.record import JsonFile, keep
from benchmarks.studies.theory import (
    anti_concentration,
    contraction,
    coupling,
    identification,
    softmax_equivalence,
    truncation,
)
from benchmarks.studies.theory.figure import theory_figure
from benchmarks.studies.theory.games import Check
from mfgjax.report.tables import markdown

MODULES = (
    softmax_equivalence,
    identification,
    anti_concentration,
    contraction,
    truncation,
    coupling,
)


def run_checks(games: int, seed: int) -> list[Check]:
    """All of them, each with its own stream of random numbers."""
    return [module.run(np.random.default_rng([seed, k]), games) for k, module in enumerate(MODULES)]


def report(checks: list[Check]) -> str:
    """Statement, verdict and table of each."""
    parts = []
    for found in checks:
        parts.append(f"### {found.name}\n\n{found.statement}\n\n**Measured.** {found.verdict}\n")
        parts.append(markdown(pd.DataFrame(found.rows), f"{found.name} in numbers"))
    return "\n".join(parts)


def main(
    json_path: JsonFile = None,
    games: Annotated[int, typer.Option(help="random games per setting")] = 1000,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """The paper's theorems with numbers."""
    jax.config.update("jax_enable_x64", True)
    checks = run_checks(games, seed)
    print(report(checks))
    found = json.dumps([vars(check) for check in checks], default=float)
    plain = json.loads(found, parse_constant=lambda _: None)  # no NaN in JSON
    keep(json_path, lambda _: report(checks), seed=seed, games=games, checks=plain)
    if json_path is not None:
        theory_figure(checks).savefig(json_path.with_suffix(".png"), dpi=160)


if __name__ == "__main__":
    typer.run(main)
