"""Slimming against dropping experts, and the routing through both: `python -m benchmarks.slimming`.

Each seed trains a small OLMoE teacher and a dozen students of it (`slimming_runs.py`); figures are gaps of
held-out loss to the teacher, in nats per byte, and differences are paired within a seed. Every expectation
is printed with what came of it, the failed ones too.

    python -m benchmarks.slimming --demo       # one seed, two stages, by the commands a user runs
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from scipy.special import stdtrit

from benchmarks.record import RESULTS, table
from benchmarks.slimming_runs import BATCH, LENGTH, Size, run_seed, save_teacher

CONSOLE = Console(stderr=True, highlight=False)
Paired = Callable[[dict[str, Any]], float]


def main(
    runs: Annotated[Path, typer.Option(help="Folder of finished seeds and their traces.")] = Path(
        "runs/slimming"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Teachers, each with its students.")] = 5,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="One model in two stages, and stop.")
    ] = False,
) -> None:
    """Run the seeds that are not there yet, then compare. Two minutes of one core per seed."""
    torch.set_num_threads(1)
    if demo:
        return run_demo(runs / "demo")
    found = [_seed(runs, seed, Size()) for seed in range(seeds)]
    if json_path is None or seeds < 3:
        return None
    from benchmarks.record import environment

    record = {
        "environment": environment(),
        "size": found[0]["size"],
        "seeds": seeds,
        "rows": [{"name": n, "gap": interval(found, gap(n))} for n in found[0]["loss"]],
        "expectations": expectations(found),
        "routing": routing(found),
        "congestion": congestion(runs / "traces", seeds),
    }
    json_path.write_text(json.dumps(record, indent=1) + "\n")
    page = RESULTS / "slimming.md"
    page.write_text(markdown(record) + "\n")
    print(markdown(record))
    return None


def _seed(runs: Path, seed: int, size: Size) -> dict[str, Any]:
    """One seed, from its file if it is there."""
    path = runs / f"seed{seed}.json"
    if not path.exists():
        found = run_seed(seed, size, runs / "traces", CONSOLE.print)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(found | {"size": vars(size)}, indent=1) + "\n")
        partial.replace(path)
    return json.loads(path.read_text())


def gap(name: str) -> Paired:
    return lambda seed: seed["loss"][name] - seed["loss"]["teacher"]


def interval(found: list[dict], of: Paired) -> list[float]:
    """Mean over seeds with the 95% interval of Student's t."""
    values = np.array([of(seed) for seed in found])
    reach = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values)))
    return [float(values.mean()), float(values.mean()) - reach, float(values.mean()) + reach]


def expectations(found: list[dict]) -> list[dict[str, Any]]:
    """What was expected before the study, what came of it, and whether it held."""

    def less(a: str, b: str, factor: float = 1.0) -> Paired:
        return lambda seed: gap(a)(seed) - factor * gap(b)(seed)

    def recovery(seed: dict) -> float:
        before, after = gap("taylor, no tokens")(seed), gap("taylor")(seed)
        return (before - after) / before

    def shift(a: str, b: str) -> Paired:
        return lambda seed: _mean(seed, a, "load_l1") - _mean(seed, b, "load_l1")

    def deeper(seed: dict) -> float:
        first, last = seed["shift"]["slimmed, no tokens"]
        return last["load_l1"] - first["load_l1"]

    def returned(seed: dict) -> float:
        last = [
            seed["shift"][n][-1]["load_l1"] for n in ("slimmed, distilled", "slimmed, no tokens")
        ]
        return last[0] - last[1]

    def cost(seed: dict) -> float:
        return seed["cost"]["score_seconds"] / seed["cost"]["train_seconds"] - 2

    below, not_above, above = "below 0", "not above 0", "above 0"
    no_tokens = ", no tokens"
    asked: list[tuple[str, Paired, str]] = [
        (
            f"no tokens: gap of {n} less half that of random",
            less(n + no_tokens, "random" + no_tokens, 0.5),
            below,
        )
        for n in ("taylor", "fisher")
    ]
    asked += [
        ("half width, distilled: recovered share of the loss, less 0.8", lambda s: recovery(s) - 0.8, above),
        ("half width: slimmed less from scratch", less("taylor", "from scratch"), below),
        ("an eighth of the width: two stages less one", less("an eighth, two stages", "an eighth, one stage"), below),
        ("half width: two stages less one", less("taylor in two stages", "taylor"), "0 within"),
        ("teacher and text less teacher only", less("taylor", "taylor, teacher only"), not_above),
        ("teacher and text less text only", less("taylor", "taylor, text only"), not_above),
        ("load L1, no tokens: last layer less first", deeper, above),
        ("load L1 of the last layer: distilled less cut only", returned, below),
        ("load L1, no tokens: slimmed less dropped", shift("slimmed, no tokens", "dropped, no tokens"), below),
        ("load L1, distilled: slimmed less dropped", shift("slimmed, distilled", "dropped, distilled"), below),
        ("cost of scoring in training steps, less 2", cost, below),
    ]  # fmt: skip
    rows = []
    for what, of, expected in asked:
        mean, low, high = interval(found, of)
        held = {
            below: high < 0,
            above: low > 0,
            not_above: low <= 0,
            "0 within": low <= 0 <= high,
        }[expected]
        rows.append(
            {"what": what, "expected": expected, "found": [mean, low, high], "held": bool(held)}
        )
    return rows


def _mean(seed: dict, name: str, what: str) -> float:
    return float(np.mean([row[what] for row in seed["shift"][name]]))


def routing(found: list[dict]) -> list[dict[str, Any]]:
    """Per student and layer: choices shared with the teacher, and L1 of the loads."""
    rows = []
    for name, layers in found[0]["shift"].items():
        for layer in range(len(layers)):

            def of(what: str, name: str = name, layer: int = layer) -> Paired:
                return lambda seed: seed["shift"][name][layer][what]

            found_here = {what: interval(found, of(what)) for what in ("agreement", "load_l1")}
            rows.append({"student": name, "layer": layer} | found_here)
    return rows


def congestion(traces: Path, seeds: int) -> list[dict[str, Any]]:
    """`mfgjax.compare` of each seed's teacher with its student: changes of the signed congestion."""
    import mfgjax

    frames = []
    for student in ("slimmed", "distilled"):
        for seed in range(seeds):
            pair = [traces / f"seed{seed}-{n}.statistics.safetensors" for n in ("teacher", student)]
            frames.append((student, mfgjax.compare(*pair, resamples=100)))
    rows = []
    for student in ("slimmed", "distilled"):
        for what in ("signed", "beyond_scale"):
            many = [f[f.quantity == what] for name, f in frames if name == student]
            for layer in range(len(many[0])):
                moved = [{"x": float(f.difference.iloc[layer])} for f in many]
                sure = sum(bool(f.differs.iloc[layer]) for f in many)
                change = interval(moved, lambda one: one["x"])
                row = {"student": student, "quantity": what, "layer": layer, "change": change}
                rows.append(row | {"seeds_that_differ": sure})
    return rows


def markdown(record: dict) -> str:
    """Every table of the study."""
    size, seeds = record["size"], record["seeds"]

    def held(name: str, digits: int) -> Callable[[dict], str]:
        return lambda r: "{0:.{d}f} [{1:.{d}f}, {2:.{d}f}]".format(*r[name], d=digits)

    parts = [
        f"{seeds} teachers (OLMoE, 2 layers of 16 experts, top-4, width 32, hidden 64; {size['teacher']:,} steps of "
        f"{BATCH * LENGTH:,} bytes), each with its students: {size['half']} steps at half the width or half the "
        f"experts, {size['eighth']} at an eighth. Means over seeds with 95% intervals.",
        table(record["rows"], {"student": "name", "gap of held-out loss to the teacher": held("gap", 3)}),
        table(
            record["expectations"],
            {
                "difference, paired within seeds": "what",
                "found": held("found", 3),
                "expected": "expected",
                "": lambda r: "held" if r["held"] else "**failed**",
            },
        ),
        table(
            record["routing"],
            {
                "student": "student",
                "layer": "layer",
                "top-K shared with the teacher": held("agreement", 3),
                "load L1": held("load_l1", 3),
            },
        ),
        table(
            record["congestion"],
            {
                "student": "student",
                "change against the teacher": lambda r: {
                    "signed": "signed γ",
                    "beyond_scale": "γ at one scale",
                }[r["quantity"]],
                "layer": "layer",
                "over seeds": held("change", 2),
                "seeds in which texts say so": lambda r: f"{r['seeds_that_differ']} of {seeds}",
            },
        ),
    ]  # fmt: skip
    on = record["environment"]
    versions = ", ".join(f"{n} {v}" for n, v in on["versions"].items())
    parts.append(f"`{on['command']}`: {on['device']}, {on['cores']} cores, {versions}.")
    return "\n\n".join(parts)


def run_demo(folder: Path) -> None:
    """Train a teacher, slim it in two stages, track the traces: the commands and their output."""
    begun = time.monotonic()
    texts = save_teacher(folder, steps=600)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    slim = ["slim", str(folder / "teacher"), "--width", "4", "--stages", "2", "--tokens", "3e5"]
    slim += ["--texts", str(texts), "--out", str(folder / "slim"), "--lr", "6e-4"]
    track = ["track", str(folder / "slim" / "traces"), "--resamples", "500"]
    for module, command in (("mfgjax_extract", slim), ("mfgjax", track)):
        CONSOLE.print(f"{module.replace('_', '-')} {' '.join(command)}")
        subprocess.run([sys.executable, "-m", module, *command], check=True, env=environment)
    CONSOLE.print(f"the demo took {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    typer.run(main)
