"""How often the monitor's alarms are false, how late they come, and what they add to a threshold.

    python -m benchmarks.studies.monitor --json FILE [--runs FOLDER]

Small language models of four MoE layers are trained in JAX, many at a time. Healthy runs differ in seed,
experts, top-k, learning rate, data and kind of balancing. In the others one thing breaks half-way. Of every
fourth step the sums that a user's run would hand over are kept in FOLDER; a run that is there is not
trained again.

Every detector's threshold is set on half of the healthy runs, to the stated budget, and measured on the
other half; then the halves change places. So detectors are compared at the same false-alarm rate. The lead
of the monitor's alarm over plain thresholds and over the damage goes to a second table, `FILE_lead`.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from scipy.stats import chi2

from benchmarks.record import Cell, JsonFile, keep, table
from benchmarks.studies.monitor.detectors import (
    DETECTORS,
    calibrated,
    cusum,
    level,
    rate_of,
    signals_of,
    thresholds_of,
)
from benchmarks.studies.monitor.lead import (
    IN_TIME,
    NEVER,
    damage,
    first_alarms,
    lead_markdown,
    lead_rows,
)
from benchmarks.studies.monitor.runs import BATCH, KINDS, LENGTH, trained
from mfgjax.monitor.change import LEARNING

BUDGET = 1e-4


def main(
    json_path: JsonFile = None,
    runs: Annotated[Path, typer.Option(help="Where trained runs are kept.")] = Path("out/monitor"),
) -> None:
    """Train, then measure every detector."""
    console = Console(stderr=True)
    groups, damaged = [], []
    for setting, run, _experts, top_k in trained(runs, console):
        groups.append((setting["kind"], signals_of(run, top_k, BATCH * LENGTH)))
        damaged.append(damage(run))
    rows, firsts = [], {}
    for name in DETECTORS:
        row, firsts[name] = detector_row(name, groups)
        rows.append(row)
    curve = threshold_curve(groups)
    healthy = sum(int((kind == 0).sum()) for kind, _ in groups)
    broken = sum(int((kind > 0).sum()) for kind, _ in groups)
    result = keep(
        json_path,
        markdown,
        healthy_runs=healthy,
        broken_runs=broken,
        budget=BUDGET,
        rows=rows,
        thresholds=curve,
        **leads(np.concatenate([kind for kind, _ in groups]), firsts, np.concatenate(damaged)),
    )
    lead = lead_markdown(result["lead"], result["lead_in_healthy"])
    print(markdown(result), lead, sep="\n")
    if json_path:
        json_path.with_name(f"{json_path.stem}_lead.md").write_text(lead)


def leads(kind: np.ndarray, firsts: dict[str, np.ndarray], damaged: np.ndarray) -> dict:
    """Lead of the monitor's alarm over plain thresholds at the same rate, and over the damage."""
    own, *_ = firsts.values()
    others = {name: firsts[name] for name in firsts if DETECTORS[name][1] is level}
    healthy = kind == 0
    return {
        "lead": lead_rows(kind, own, others | {"damage": damaged}),
        "lead_in_healthy": {
            "runs": int(healthy.sum()),
            "alarmed": int((own[healthy] < NEVER).sum()),
            "damaged": int((damaged[healthy] < NEVER).sum()),
        },
    }


def detector_row(name: str, groups: list) -> tuple[dict, np.ndarray]:
    """False alarms on runs that the threshold was not set on, and delays in broken runs.

    Also returns the first alarm after the break of every run.
    """
    signal, rule = DETECTORS[name]
    halves: list[list[np.ndarray]] = [[], []]
    for kind, signals in groups:
        healthy = signals[signal][:, kind == 0]
        for half in range(2):
            # Runs alternate in balancing and, by twos and fours, in rate and data: take them by eights.
            chosen = np.arange(healthy.shape[1]) // 8 % 2 == half
            halves[half].append(healthy[:, chosen])
    set_on = [calibrated(rule, half, BUDGET) for half in halves]
    measured = [rate_of(rule, halves[1 - half], set_on[half]) for half in range(2)]
    alarms, checks = (sum(m[i] for m in measured) for i in range(2))
    low = chi2.ppf(0.025, 2 * alarms) / 2 if alarms else 0.0
    high = chi2.ppf(0.975, 2 * alarms + 2) / 2
    threshold = max(set_on)
    delays, firsts = {kind: [] for kind in KINDS[1:]}, []
    for kind, signals in groups:
        first = first_alarms(rule(signals[signal], threshold))
        firsts.append(first)
        for run in np.flatnonzero(kind > 0):
            delays[KINDS[kind[run]]].append(int(first[run]) if first[run] < NEVER else None)
    row = {
        "detector": name,
        "thresholds": set_on,
        "false_alarms": alarms,
        "layer_checks": checks,
        "per_10000": 1e4 * alarms / checks,
        "interval": [1e4 * low / checks, 1e4 * high / checks],
        "delays": delays,
    }
    return row, np.concatenate(firsts)


def threshold_curve(groups: list) -> list[dict]:
    """The monitor's thresholds: the false-alarm rate of each over all healthy runs."""
    signals = [s["entropy with its noise"][:, kind == 0] for kind, s in groups]
    found = []
    for threshold in thresholds_of(cusum, signals):
        alarms, checks = rate_of(cusum, signals, threshold)
        found.append({"threshold": float(threshold), "alarms": alarms, "layer_checks": checks})
    return found


def markdown(result: dict) -> str:
    """The table of the documentation."""
    rate = "{per_10000:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"
    columns: dict[str, str | Cell] = {
        "detector": "detector",
        "false alarms per 10,000 layer-checks": rate,
        **{kind: lambda row, kind=kind: _delay(row["delays"][kind]) for kind in KINDS[1:]},
    }
    return (
        f"{table(result['rows'], columns)}\n\n"
        f"{result['healthy_runs']} healthy runs, {result['rows'][0]['layer_checks']:,} layer-checks after "
        f"the first {LEARNING} sampled steps; {result['broken_runs']} broken ones. Cells: runs in which an "
        f"alarm came within {IN_TIME} sampled steps of the break, and the median delay in sampled steps.\n"
    )


def _delay(delays: list[int | None]) -> str:
    seen = [d for d in delays if d is not None]
    middle = f", {np.median(seen):.0f}" if seen else ""
    return f"{len(seen)} of {len(delays)}{middle}"


if __name__ == "__main__":
    typer.run(main)
