"""What the first answer of each command costs: CPU and wall seconds, compiled programs, cold and warm.

    python -m benchmarks.first_answer --json FILE

Each command runs in a process of its own on the bundled run of 16 experts, first with an empty cache of
compiled programs, then with the one that this left behind. A program counts wherever it came from.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.record import JsonFile, keep, table

# Runs in the process that is measured, so it imports nothing that the command does not.
_CHILD = """
import contextlib, json, os, resource, sys, time
begun = time.perf_counter()
programs = []
from mfgjax.cli.main import app
import jax.monitoring
def count(event, seconds, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        programs.append(seconds)
jax.monitoring.register_event_duration_secs_listener(count)
import mfgjax.tracking
if sys.argv[1:]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        ended = app(sys.argv[1:], standalone_mode=False)
    if ended:  # an error that the command explained on standard error
        sys.exit(ended)
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "cpu_seconds": used.ru_utime + used.ru_stime,
    "wall_seconds": time.perf_counter() - begun,
    "programs": len(programs),
    "peak_mb": used.ru_maxrss / 1024,
}))
"""


def jobs(scratch: Path) -> dict[str, list[str]]:
    """Arguments of the command line by name; none for `import`."""
    from mfgjax.bundled import bundled_runs

    traces = bundled_runs()["experts16"].traces
    trace = sorted(traces.glob("*.statistics.safetensors"))[-1]
    return {
        "import": [],
        "fit": ["fit", str(trace)],
        "track": ["track", str(traces)],
        "demo": ["demo", "--run", "experts16"],
        "analyze": ["analyze", str(traces), "--out", str(scratch / "report")],
    }


def measure(arguments: list[str], cache: Path) -> dict:
    """One command in a process of its own.

    Raises:
        RuntimeError: the command failed; with the end of what it said.
    """
    found = {"JAX_COMPILATION_CACHE_DIR": str(cache), "MPLBACKEND": "agg"}
    run = subprocess.run(
        [sys.executable, "-c", _CHILD, *arguments],
        env=os.environ | found,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"mfgjax {' '.join(arguments)} failed: {run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def markdown(record: dict) -> str:
    """The table of the docs."""
    columns = {
        "command": "command",
        "cache": "cache",
        "CPU s": "{cpu_seconds:.1f}",
        "programs": "programs",
        "peak MB": "{peak_mb:.0f}",
    }
    return table(record["results"], columns)


def main(
    json_path: JsonFile = None,
    only: Annotated[list[str] | None, typer.Option(help="some of the commands")] = None,
) -> None:
    """First answers, cold and warm. With `only`, rows of other commands stay in FILE as they are."""
    kept = json.loads(json_path.read_text())["results"] if json_path and json_path.exists() else []
    results = [row for row in kept if only and row["command"] not in only]
    with tempfile.TemporaryDirectory() as scratch:
        for name, arguments in jobs(Path(scratch)).items():
            if only and name not in only:
                continue
            for state in ("cold", "warm"):
                found = measure(arguments, Path(scratch) / name)
                results.append({"command": name, "cache": state, **found})
    order = list(jobs(Path()))
    results.sort(key=lambda row: order.index(row["command"]))  # cold before warm: stable
    print(markdown(keep(json_path, markdown, results=results)))


if __name__ == "__main__":
    typer.run(main)
