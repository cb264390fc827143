"""SIGKILL at random times: a worker, a node of a Ray cluster, the driver.

`mfgjax-extract --on local:2` or `--on ray` runs in a process of its own; at a random time of what an
undisturbed run takes, one process (a node: all of its processes) is killed; the command is run again
until it ends with 0. Counted are files that differ from the serial ones, files with a trace's name
that were there and not whole when all was dead, and extractions begun again.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.sweeps.checkpoints import TEXTS, Serial, different, traces
from mfgjax_extract import spread as driver
from mfgjax_extract.task import Extracted, Task, run_task

VICTIMS = (
    ("local:2", "worker"),
    ("local:2", "driver"),
    ("ray", "node"),
    ("ray", "worker"),
    ("ray", "driver"),
)
"""In turn, so that twenty kills are four of each."""
ATTEMPTS = 5
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}


def logged(task: Task) -> Extracted:
    """The task; when it begins and what became of it go to a file beside the traces."""
    log = task.settings.out.with_suffix(".log")
    with log.open("a") as file:
        file.write(f"{task.revision.name} begins\n")
    outcome = run_task(task)
    with log.open("a") as file:
        file.write(f"{task.revision.name} {outcome.state}\n")
    return outcome


def logged_command() -> None:
    """`mfgjax-extract` with `logged` tasks."""
    from mfgjax_extract.cli import app

    driver.run_task = logged
    app()


def kill_study(serial: Serial, kills: int, checkpoints: int, scratch: Path, seed: int) -> dict:
    """Kill at random times, run the command again until it is done.

    Args:
        serial: the whole sweep; all but the first `checkpoints` of its folder are deleted.
        kills: how many.
        checkpoints: of each sweep.
        scratch: a folder.
        seed: of the random times.
    """
    kept = serial.revisions[:checkpoints]
    for revision in serial.revisions[checkpoints:]:
        shutil.rmtree(revision.source)
    labels = {revision.label for revision in kept}
    files = {n: c for n, c in serial.files.items() if n.split(".")[0] in labels}
    texts = scratch / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    rng, rows = random.Random(seed), []
    with _cluster() as cluster:

        def sweep(out: Path, on: str) -> subprocess.Popen:
            code = "from benchmarks.sweeps.kills import logged_command; logged_command()"
            words = [sys.executable, "-c", code, serial.models, "--texts", texts, "--out", out]
            words += ["-q", "--on", on, "--per-checkpoint", "cpu=1", "--name", "tiny"]
            there = {**os.environ, "RAY_ADDRESS": cluster.address}
            return subprocess.Popen([str(word) for word in words], env=there)

        span = {on: _undisturbed(sweep, scratch, on) for on in ("local:2", "ray")}
        early = 0
        for number in range(kills):
            on, victim = VICTIMS[number % len(VICTIMS)]
            for attempt in range(ATTEMPTS):
                out = scratch / f"kill{number}-{attempt}"
                after = rng.uniform(0, span[on])
                run = sweep(out, on)
                _first_task(out, run)
                begun = time.monotonic()
                while time.monotonic() - begun < after and run.poll() is None:
                    time.sleep(0.02)
                took = time.monotonic() - begun
                if run.poll() is None and _kill(victim, on, run.pid, cluster, rng):
                    break
                early += 1  # the run was over, or no worker was at work
                if run.wait() == 0 and took < after:
                    span[on] = min(span[on], took)
            else:
                raise SystemExit(
                    f"{ATTEMPTS} runs of --on {on} ended before their {victim} was killed"
                )
            if run.wait():
                time.sleep(1)  # a worker that outlives its driver may still write
            half = sum(files.get(n) != c for n, c in traces(out).items())
            reruns = 0
            while run.returncode and reruns < 3:
                run, reruns = sweep(out, on), reruns + 1
                run.wait()
            rows.append(
                {
                    "on": on,
                    "victim": victim,
                    "seconds": after,
                    "of_span": after / span[on],
                    "half_written": half,
                    "differ": different(traces(out), files),
                    "partial_left": len(list(out.glob("*.partial"))),
                    "begun_again": _begun(out) - len(kept),
                    "commands_again": reruns,
                    "last_exit_code": run.returncode,
                }
            )
    found = {"checkpoints": len(kept), "span_seconds": span, "ended_before_the_kill": early}
    return found | {"rows": rows}


@contextmanager
def _cluster() -> Iterator[Any]:
    """A head without cores, and two nodes with one core each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    for _ in range(2):
        cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


def _undisturbed(sweep, scratch: Path, on: str) -> float:
    """Seconds from the first task of a run to its end."""
    out = scratch / f"undisturbed-{on.partition(':')[0]}"
    run = sweep(out, on)
    _first_task(out, run)
    begun = time.monotonic()
    if run.wait():
        raise SystemExit(f"--on {on} fails undisturbed")
    return time.monotonic() - begun


def _first_task(out: Path, run: subprocess.Popen) -> None:
    while not out.with_suffix(".log").exists() and run.poll() is None:
        time.sleep(0.02)


def _kill(victim: str, on: str, command: int, cluster, rng: random.Random) -> bool:
    """Whether there was one to kill."""
    if victim == "node":
        cluster.remove_node(rng.choice(cluster.list_all_nodes()[1:]), allow_graceful=False)
        cluster.add_node(**NODE)
        return True
    if victim == "driver":
        found = [command]
    elif on == "ray":
        found = [p for p in _below(os.getpid()) if _title(p).startswith("ray::logged")]
    else:
        found = [p for p in _below(command) if "spawn_main" in _title(p)]
    if found:
        os.kill(rng.choice(found), signal.SIGKILL)
    return bool(found)


def _below(process: int) -> list[int]:
    """Processes that descend from this one."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [process]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def _title(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _begun(out: Path) -> int:
    """Extractions begun: a task that found its checkpoint done or held by another began none."""
    lines = out.with_suffix(".log").read_text().splitlines()
    idle = sum(line.endswith((" skipped", " held")) for line in lines)
    return sum(line.endswith(" begins") for line in lines) - idle
