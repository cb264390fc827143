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

from benchmarks.record import environment
from benchmarks.sweeps.checkpoints import serial_sweep
from benchmarks.sweeps.kills import kill_study
from benchmarks.sweeps.speed import ENGINES, driver_costs, engine_costs, run_again
from benchmarks.sweeps.tables import markdown

PARTS = (*ENGINES, "driver", "kills")


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
