"""Turn a training run into a bundled run: traces of its checkpoints, and where they come from.

    python extract/training/bundle.py runs/experts16 mfgjax/bundled/experts16
    python extract/training/bundle.py runs/scheduled16 mfgjax/bundled/scheduled16 --texts 64 --length 128

The checkpoints are extracted with the command that a user runs on a hub model. Token logits are
kept for the first checkpoint, the last, and the one between with the largest signed congestion. A run
with a leaky price also gets its truth: the congestion that was set at every checkpoint, and how far
the price was from its fixed point.
"""

import json
import math
import shutil
import subprocess
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from corpus import held_out_texts
from price_in_force import price_in_force


def run(*command: str | Path) -> str:
    """Run one of the project's commands and return what it printed."""
    done = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def extract(run_folder: Path, texts: Path, out: Path, tokens: str | None) -> None:
    only = ["--statistics-only"] if tokens is None else ["--tokens", tokens]
    # Code that the training script saved with the checkpoints, where their routers have prices.
    code = ["--trust-remote-code"] if next(run_folder.glob("step*/*.py"), None) else []
    options = ["--texts", texts, "--out", out, "--dtype", "float32", *only, *code]
    run("mfgjax-extract", run_folder, *options)


def trajectory(traces: Path) -> dict[str, Any]:
    return json.loads(run("mfgjax", "track", traces, "--json"))


def loss_curve(log: Path, every: int) -> list[dict[str, Any]]:
    """One row per `every` steps: training loss, balance and logit scale, as logged."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    kept = {r["step"]: r for r in rows if "loss" in r and r["step"] % every == 0}
    held_out = {r["step"]: r["held_out_loss"] for r in rows if "held_out_loss" in r}
    return [
        {k: v for k, v in row.items() if k != "seconds"} | {"held_out_loss": held_out.get(step)}
        for step, row in sorted(kept.items())
    ]


def truth(run_folder: Path, steps: list[int], length: int) -> list[dict[str, Any]]:
    """The congestion set at each checkpoint, and the one that the price really was in force at.

    Per layer: `price_slope` and `price_lag` as logged, against the average load that the price follows;
    `in_force` as measured on other training text (`price_in_force.py`), with its 95% interval.
    """
    log = (run_folder / "log.jsonl").read_text().splitlines()
    logged = {r["step"]: r for r in map(json.loads, log) if "gamma" in r}
    rows = []
    for step in steps:
        (folder,) = run_folder.glob(f"step{step}-*")
        found = price_in_force(folder, length)
        names = ("step", "gamma", "price_slope", "price_lag", "average_max_load")
        rows.append(
            {name: logged[step][name] for name in names}
            | {"in_force": found.congestion.round(3).tolist()}
            | {"in_force_interval": found.interval.round(3).tolist()}
        )
    return rows


def phase_ranges(rows: list[dict[str, Any]]) -> list[str]:
    """`surge (steps 180 to 1604)`, one entry per run of equal labels."""
    ranges = []
    for phase, group in groupby(rows, key=lambda row: row.get("phase", "none")):
        steps = [row["checkpoint"] for row in group]
        ranges.append(f"{phase} (steps {steps[0]} to {steps[-1]})")
    return ranges


def shows(result: dict[str, Any]) -> list[str]:
    """What the trajectory shows, from its own phases and remarks: nothing is claimed by hand."""
    rows = result["checkpoints"]
    peak = max(rows, key=lambda r: r["mean_signed"])
    lines = [
        f"layer-averaged Definition 3.1 estimate: {rows[0]['mean_congestion']:.1f} at the start, at most "
        f"{max(r['mean_congestion'] for r in rows):.1f}, {rows[-1]['mean_congestion']:.1f} at the end",
        f"its phases: {', '.join(phase_ranges(rows))}",
        f"signed estimate: {rows[0]['mean_signed']:.1f} at the start, {peak['mean_signed']:.1f} at its "
        f"peak (step {peak['checkpoint']}), {rows[-1]['mean_signed']:.1f} at the end",
        f"dispersion null: {rows[0]['mean_dispersion_null']:.1f}, {peak['mean_dispersion_null']:.1f}, "
        f"{rows[-1]['mean_dispersion_null']:.1f} at the same checkpoints",
    ]
    return lines + result["remarks"]


def bundle(
    run_folder: Annotated[Path, typer.Argument(help="Folder that train_olmoe.py wrote.")],
    out: Annotated[Path, typer.Argument(help="Folder of the bundled run.")],
    text_count: Annotated[
        int, typer.Option("--texts", help="Held-out texts, one a document.")
    ] = 50,
    length: Annotated[int, typer.Option(help="Bytes of each.")] = 96,
) -> None:
    """Extract, keep token logits of three checkpoints, write provenance.json."""
    texts = run_folder / "texts.jsonl"
    lines = (json.dumps({"text": text}) for text in held_out_texts(text_count, length))
    texts.write_text("\n".join(lines) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    extract(run_folder, texts, out, tokens=None)
    result = trajectory(out)
    rows = result["checkpoints"]
    peak = max(rows[1:-1], key=lambda r: r["mean_signed"])
    kept = [f"step{row['checkpoint']}-*" for row in (rows[0], peak, rows[-1])]
    extract(run_folder, texts, out, tokens=",".join(kept))
    shutil.rmtree(out / ".extract", ignore_errors=True)  # what lets a killed sweep go on
    made = json.loads((run_folder / "run.json").read_text())
    settings = made["settings"]
    tokens = settings["steps"] * settings["batch_size"] * settings["length"]
    provenance = {
        "about": (
            f"an OLMoE of {settings['layers']} MoE layers, {settings['experts']} experts, "
            f"top-{settings['top_k']}, width {settings['hidden']}, trained {settings['steps']:,} steps "
            f"({tokens / 1e6:.1f} M bytes) on Python's standard library"
        ),
        "experts": settings["experts"],
        "training": made,
        "texts": f"{text_count} held-out texts of {length} bytes, one a document",
        "token_logits": kept,
        "extraction": f"python extract/training/bundle.py RUN OUT --texts {text_count} --length {length}",
        "shows": shows(result),
        "loss_curve": loss_curve(
            run_folder / "log.jsonl", 100 * math.ceil(settings["steps"] / 10_000)
        ),
    }
    if settings.get("balance") == "leaky":
        steps = [int(row["step"]) for row in rows]
        provenance["truth"] = truth(run_folder, steps, settings["length"])
    (out / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {len(rows)} checkpoints, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(bundle)
