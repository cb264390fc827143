"""What spreading a sweep costs and survives: `python -m benchmarks.sweep_engines --json FILE`.

Small random OLMoEs are extracted serially, then on each engine (`benchmarks/sweeps/speed.py`), then
with processes killed at random times (`benchmarks/sweeps/kills.py`). Files are compared byte by byte.
Results are written as they come, with a table beside them; `--part` measures some again and leaves the others of FILE alone.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.record import Cell, environment, measured_on, table
from benchmarks.sweeps.checkpoints import serial_sweep
from benchmarks.sweeps.kills import kill_study
from benchmarks.sweeps.speed import ENGINES, driver_costs, engine_costs, run_again

PARTS = (*ENGINES, "driver", "kills")


def markdown(record: dict) -> str:
    """The parts of the record that there are."""
    parts = [_engines([record[name] for name in ENGINES if name in record])]
    parts += [_driver(record["driver"])] if "driver" in record else []
    parts += [_kills(record["kills"])] if "kills" in record else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _engines(rows: list[dict]) -> str:
    if not rows:
        return ""
    columns = {
        "engine": "engine",
        "checkpoints": "checkpoints",
        "start s": "{start_seconds:.0f}",
        "wall / ideal": "{wall_over_ideal:.2f}",
        "(wall - start) / ideal": "{wall_less_start_over_ideal:.2f}",
        "files that differ from serial": lambda row: (
            f"{row['files_that_differ']} of {row['files']}"
        ),
        "load average": "{load_average:.0f}",
    }
    return f"{table(rows, columns)}\n\n{measured_on(rows[0])}"


def _driver(row: dict) -> str:
    torch = "with" if row["torch_imported_by_a_finished_sweep"] else "without"
    return "\n".join(
        [
            "* CPU of the driver per checkpoint: "
            f"{row['driver_cpu_ms_per_checkpoint']:.2f} ms; of a node that answers the check of the folder: "
            f"{row['node_check_cpu_ms']:.1f} ms. Digest of a folder's weights: "
            f"{row['digest_gb_per_cpu_second']:.1f} GB per CPU second.",
            f"* What a task returns: {row['outcome_pickled_bytes']} bytes. Files per checkpoint: "
            f"{row['files_per_checkpoint']} traces and {row['notes_per_checkpoint']} notes.",
            f"* A finished sweep of {row['checkpoints']} checkpoints run again: "
            f"{row['cpu_seconds_of_a_finished_sweep']:.1f} s of CPU, "
            f"{row['wall_seconds_of_a_finished_sweep']:.1f} s at a load average of "
            f"{row['environment']['load_average']:.0f}, {torch} torch.",
        ]
    )


def _kills(record: dict) -> str:
    cells: dict[tuple[str, str], list[dict]] = {}
    for row in record["rows"]:
        cells.setdefault((row["on"], row["victim"]), []).append(row)
    rows = [
        {"on": f"`--on {on}`", "victim": victim, "of": rows}
        for (on, victim), rows in sorted(cells.items())
    ]

    def count(name: str) -> Cell:
        return lambda row: sum(bool(one[name]) for one in row["of"])

    columns = {
        "": "on",
        "killed": "victim",
        "kills": lambda row: len(row["of"]),
        "at, of the run": lambda row: ", ".join(
            f"{one:.0%}" for one in sorted(one["of_span"] for one in row["of"])
        ),
        "sweeps whose files differ in the end": count("differ"),
        "half-written files": count("half_written"),
        "begun again, most by one kill": lambda row: max(one["begun_again"] for one in row["of"]),
        "command run again": count("commands_again"),
    }
    return f"{table(rows, columns)}\n\n{measured_on(record)}"


def main(
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write results here, part by part.")
    ] = None,
    checkpoints: Annotated[int, typer.Option(help="Of the sweeps.")] = 50,
    workers: Annotated[int, typer.Option(help="Nodes, processes or jobs at a time.")] = 4,
    rest: Annotated[float, typer.Option(help="Seconds that a task's GPU would be busy.")] = 5.0,
    kills: Annotated[int, typer.Option(help="Random times of the kill study.")] = 20,
    of: Annotated[int, typer.Option(help="Checkpoints of each sweep that is killed.")] = 6,
    seed: int = 0,
    part: Annotated[
        list[str] | None, typer.Option(help=f"Some of {', '.join(PARTS)}. Default: all.")
    ] = None,
) -> None:
    """Measure the engines against a serial sweep, then kill their processes."""
    chosen = part or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        raise typer.BadParameter(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    record = json.loads(json_path.read_text()) if json_path and json_path.exists() else {}
    console = Console(width=110)

    def keep(name: str, found: dict) -> None:
        record[name] = {"environment": environment()} | found
        console.print({name: found})
        if json_path:
            json_path.parent.mkdir(parents=True, exist_ok=True)
            json_path.write_text(json.dumps(record, indent=1) + "\n")
            json_path.with_suffix(".md").write_text(markdown(record))

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        engines = [name for name in ENGINES if name in chosen]
        serial = serial_sweep(scratch, of if chosen == ["kills"] else checkpoints)
        measured = {"serial_seconds_per_checkpoint": serial.seconds, "rest_seconds": rest}
        costs = engine_costs(serial, workers, rest, scratch, engines)
        for name, row in zip(engines, costs, strict=True):
            keep(name, measured | row)
        if "driver" in chosen:
            keep("driver", run_again(serial, scratch) | driver_costs(serial, scratch, 200))
        if "kills" in chosen:
            keep("kills", kill_study(serial, kills, of, scratch, seed))


if __name__ == "__main__":
    typer.run(main)
