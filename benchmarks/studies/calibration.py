"""Which estimator gives back a congestion that was set by hand? On models trained at known doses.

    python extract/training/doses.py --out runs/doses
    python -m benchmarks.studies.calibration --runs runs/doses

Every model was trained with a leaky price of known gamma (`extract/training/balance.py`) and is read on
text that it was not trained on. Beside the dose stand the slope of the price that was in force there, what
the choices reveal of it, the congestion at the level of tokens, and the mean-field estimates with their
excess over three nulls. Runs that the results hold already are not computed again. Writes
benchmarks/results/calibration.{json,md}; without --runs the table is made again from the rows there.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer
from rich.console import Console
from scipy import stats

from benchmarks.record import RESULTS, environment, keep
from mfgjax.estimate import (
    counterfactual_excess,
    dispersion_excess,
    fit_congestion,
    permutation_excess,
    unit_weights,
)
from mfgjax.estimate.inference.quality import estimate_quality_and_load
from mfgjax.estimate.null.excess import ExcessCongestion
from mfgjax.price import estimate_price_slope, reveal_price, token_congestion_interval
from mfgjax.price.slope import fit_price_slope
from mfgjax.trace import TokenTrace, read_trace
from mfgjax.trace.statistics import statistics_of

FILE = RESULTS / "calibration.json"
COLUMNS = {
    "in_force": "price in force",
    "revealed": "revealed price",
    "token": "γ_token",
    "signed": "signed",
    "definition": "Definition 3.1",
    "over_dispersion": "excess over dispersion",
    "over_permutation": "over permutation",
    "over_counterfactual": "over counterfactual",
}
Measured = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Estimate and both ends of its interval over documents, `[layer]` each; NaN where there is no interval."""


def measure(trace: TokenTrace, documents: list[int]) -> dict[str, Measured]:
    """Every column of one model, by layer."""
    sums = statistics_of(trace).statistics
    texts = trace.metadata.text_count
    assert trace.selection_bias is not None
    known = fit_price_slope(
        -np.asarray(trace.selection_bias, float),
        np.zeros(trace.selection_bias.shape),
        np.asarray(sums.dispatch_count).sum(0) > 0,
        np.asarray(sums.dispatch_count, float),
        documents=documents,
    )
    revealed = reveal_price(trace)
    shown = estimate_price_slope(trace, revealed=revealed, documents=documents)
    token = token_congestion_interval(trace, revealed=revealed, documents=documents)
    quality, load = jax.jit(estimate_quality_and_load)(sums, unit_weights(texts))
    definition = np.asarray(fit_congestion(quality, load, "l1").congestion[0], float)
    dispersion = dispersion_excess(trace, documents=documents)
    permutation = permutation_excess(trace, documents=documents)
    counterfactual = counterfactual_excess(trace, documents=documents)
    signed = np.asarray(permutation.congestion, float)
    return {
        "in_force": (known.congestion, known.interval[:, 0], known.interval[:, 1]),
        "revealed": (shown.congestion, shown.interval[:, 0], shown.interval[:, 1]),
        "token": (token.congestion, token.interval[:, 0], token.interval[:, 1]),
        "signed": (signed, *permutation.congestion_interval),
        "definition": without_interval(definition),
        "over_dispersion": of_excess(dispersion),
        "over_permutation": of_excess(permutation),
        "over_counterfactual": of_excess(counterfactual),
    }


def without_interval(estimate: np.ndarray) -> Measured:
    return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)


def of_excess(found: ExcessCongestion) -> Measured:
    low, high = found.excess_interval
    return np.asarray(found.excess, float), np.asarray(low, float), np.asarray(high, float)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """One row per layer of a run."""
    made = json.loads((folder / "run.json").read_text())
    documents = json.loads((folder / "documents.json").read_text())
    trace = read_trace(next(folder.glob("*.tokens.safetensors")))
    assert isinstance(trace, TokenTrace)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    last = [row for row in log if "price_slope" in row][-1]
    losses = [row["held_out_loss"] for row in log if "held_out_loss" in row]
    found = measure(trace, documents)
    run = {name: made[name] for name in ("shape", "dose", "seed")}
    return [
        {
            "run": folder.name,
            **run,
            "layer": layer,
            "steps": made["settings"]["steps"],
            "slope_on_followed_average": last["price_slope"][layer],
            "held_out_loss": losses[-1],
            "tokens": len(trace.text),
            **{
                name: [
                    float(f"{part[layer]:.5g}") if np.isfinite(part[layer]) else None
                    for part in parts
                ]
                for name, parts in found.items()
            },
        }
        for layer in range(len(trace.metadata.layers))
    ]


def summary(rows: list[dict[str, Any]], name: str) -> str:
    """Mean over layers and seeds; with three seeds or more its t interval over seeds, else the range."""
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        if row[name][0] is not None:
            by_seed.setdefault(row["seed"], []).append(row[name][0])
    if not by_seed:
        return "-"
    means = np.asarray([np.mean(values) for values in by_seed.values()])
    if len(means) >= 3:
        reach = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
        low, high = means.mean() - reach, means.mean() + reach
        return f"{means.mean():.1f} [{low:.1f}, {high:.1f}]"
    values = np.concatenate([np.asarray(values) for values in by_seed.values()])
    return f"{means.mean():.1f} ({values.min():.1f} to {values.max():.1f})"


def markdown(rows: list[dict[str, Any]]) -> str:
    """One line per shape and dose."""
    cells = sorted({(row["shape"], row["dose"]) for row in rows})
    lines = [
        f"| experts | dose set | runs | {' | '.join(COLUMNS.values())} |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for shape, dose in cells:
        these = [row for row in rows if (row["shape"], row["dose"]) == (shape, dose)]
        runs = len({row["run"] for row in these})
        values = [summary(these, name) for name in COLUMNS]
        lines.append(f"| {shape} | {dose:g} | {runs} | {' | '.join(values)} |")
    held = [within(rows, name) for name in ("revealed", "token")]
    lines += ["", "[low, high]: t interval over seeds; (low to high): range over layers and seeds."]
    lines += [f"Intervals over documents that hold the slope in force: {'; '.join(held)}."]
    return "\n".join(lines) + "\n"


def within(rows: list[dict[str, Any]], name: str) -> str:
    """In how many layers the interval of a column holds the estimate of the slope in force."""
    known = [r for r in rows if None not in r[name] and r["in_force"][0] is not None]
    held = sum(r[name][1] <= r["in_force"][0] <= r[name][2] for r in known)
    return f"{COLUMNS[name]} {held} of {len(known)}"


def main(
    runs: Annotated[Path | None, typer.Option(help="Folder that doses.py wrote.")] = None,
    json_path: Annotated[Path, typer.Option("--json", help="Results, kept and added to.")] = FILE,
) -> None:
    """Add the runs that are not in the results yet, and write the table."""
    console = Console(width=160)
    record: dict[str, Any] = {"rows": []}
    if json_path.exists():
        record = json.loads(json_path.read_text())
    have = {row["run"] for row in record["rows"]}
    for made in sorted(runs.glob("*/run.json")) if runs is not None else []:
        if made.parent.name in have:
            continue
        record["rows"] += rows_of(made.parent)
        command = "python -m benchmarks.studies.calibration --runs runs/doses"
        keep(json_path, **record | {"environment": environment() | {"command": command}})
        console.print(made.parent.name)
    if not record["rows"]:
        raise SystemExit(f"no runs in {json_path}: train some with extract/training/doses.py")
    table = markdown(record["rows"])
    json_path.with_suffix(".md").write_text(table)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
