"""Wall time of a sweep on each engine, and what the driver itself costs.

A task rests after its work, in place of a GPU that is busy: without it the machine's cores bound
what many workers can gain, and with it the engine's own cost shows.
"""

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.sweeps.checkpoints import TEXTS, Serial, contents, different
from mfgjax_extract import spread as driver
from mfgjax_extract.engines import Engine
from mfgjax_extract.engines.drive import Reporter as Watcher
from mfgjax_extract.engines.needs import Needs
from mfgjax_extract.engines.shared_folder import answer, handed_over
from mfgjax_extract.source import NOTES, _sha256
from mfgjax_extract.spread import PACKAGES, spread
from mfgjax_extract.sweep import Reporter, sweep
from mfgjax_extract.sweep_settings import SweepSettings
from mfgjax_extract.task import Extracted, Task, run_task

ENGINES = ("local", "ray", "submitit")
REST = "SWEEP_ENGINES_REST"
ONE_THREAD = Needs(cpu=1)


def rested(task: Task) -> Extracted:
    """The task, and the time that a GPU would be busy."""
    outcome = run_task(task)
    time.sleep(float(os.environ.get(REST, "0")))
    return outcome


class Noted(Watcher):
    """When the first checkpoint is done."""

    def __init__(self):
        self.first = 0.0

    def finished(self, revision, outcome):
        self.first = self.first or time.perf_counter()


def engine_costs(
    serial: Serial, workers: int, rest: float, scratch: Path, names: list[str]
) -> Iterator[dict]:
    """Wall time of a sweep on each engine against what its tasks' own seconds would take at best.

    `ideal_seconds` are the serial seconds and the rests divided by the workers; `start_seconds` pass
    before the first task begins, most of them loading torch.
    """
    os.environ[REST] = str(rest)
    driver.run_task = rested
    revisions = serial.revisions
    ideal = (serial.seconds + rest) * len(revisions) / workers
    for name, make in _engines(workers, scratch, names):
        out, noted, begun = scratch / name.replace(" ", "-"), Noted(), time.perf_counter()
        settings = SweepSettings("tiny", out)
        failed = spread(revisions, TEXTS, settings, make, noted, ONE_THREAD.cpu)
        wall = time.perf_counter() - begun
        start = max(noted.first - begun - serial.seconds - rest, 0.0)
        yield {
            "engine": name,
            "checkpoints": len(revisions),
            "wall_seconds": wall,
            "start_seconds": start,
            "ideal_seconds": ideal,
            "wall_over_ideal": wall / ideal,
            "wall_less_start_over_ideal": (wall - start) / ideal,
            "files": len(serial.files),
            "files_that_differ": different(contents(out), serial.files),
            "failed": len(failed),
            "load_average": os.getloadavg()[0],
        }


def _engines(workers: int, scratch: Path, names: list[str]):
    """`(name, engine)` one after the other; a Ray cluster of one-core nodes is started and stopped."""
    if "local" in names:
        from mfgjax_extract.engines.processes import Processes

        yield f"local:{workers}", lambda: Processes(workers, ONE_THREAD)
    if "ray" in names:
        import ray
        from ray.cluster_utils import Cluster

        from mfgjax_extract.engines.ray_tasks import RayTasks

        node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        for _ in range(workers - 1):
            cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False)
        yield f"ray, {workers} nodes", lambda: RayTasks(None, ONE_THREAD)
        ray.shutdown()
        cluster.shutdown()
    if "submitit" in names:
        from mfgjax_extract.engines.slurm import SlurmJobs

        def local() -> Engine:
            jobs = SlurmJobs(scratch, ONE_THREAD, cluster="local", poll_s=0.1)
            jobs.at_once = workers
            return jobs

        yield f"submitit local, {workers} at a time", local


def run_again(serial: Serial, scratch: Path) -> dict:
    """The command on a sweep that is done, in a process of its own."""
    texts = scratch / "again.jsonl"
    texts.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    code = (
        "import sys; from mfgjax_extract.cli import app\n"
        "try: app()\nfinally: print('torch' in sys.modules)"
    )
    words = [sys.executable, "-c", code, serial.models, "--texts", texts, "--out", serial.out]
    words += ["--name", "tiny", "-q", "--on", "local:4", "--per-checkpoint", "cpu=1"]
    begun, before = time.perf_counter(), os.times()
    done = subprocess.run([str(w) for w in words], check=True, stdout=subprocess.PIPE, text=True)
    after = os.times()
    return {
        "checkpoints": len(serial.revisions),
        "wall_seconds_of_a_finished_sweep": time.perf_counter() - begun,
        "cpu_seconds_of_a_finished_sweep": after.children_user
        + after.children_system
        - before.children_user
        - before.children_system,
        "torch_imported_by_a_finished_sweep": done.stdout.split()[-1] == "True",
    }


def driver_costs(serial: Serial, scratch: Path, tasks: int) -> dict:
    """What one checkpoint costs beside the model: CPU of driver and node, bytes, files."""
    out, revisions = scratch / "driver", serial.revisions
    sweep(revisions[:1], TEXTS, SweepSettings("tiny", out), Reporter())
    settings = SweepSettings("tiny", out, overwrite=True)
    with handed_over(out / NOTES, json.dumps(TEXTS).encode(), PACKAGES) as handover:
        outcome = run_task(Task(revisions[0], settings, handover))

    class Nothing:
        at_once = 256

        def on_every_node(self, function, argument):
            return []

        def submit(self, function, arguments):
            return [object() for _ in arguments]

        def ended(self, handles):
            return [next(iter(handles))]

        def result(self, handle):
            return outcome

        def close(self): ...

    begun = time.process_time()
    driver.run_task = run_task
    spread([revisions[0]] * tasks, TEXTS, settings, Nothing, Watcher(), 1)
    each = 1e3 * (time.process_time() - begun) / tasks
    with handed_over(out / NOTES, json.dumps(TEXTS).encode(), PACKAGES) as handover:
        begun = time.process_time()
        for _ in range(20):
            answer(handover)
        check = 1e3 * (time.process_time() - begun) / 20
    weights = scratch / "weights"
    weights.write_bytes(bytes(2**28))
    begun = time.process_time()
    _sha256(weights)
    digest = 2**28 / 1e9 / (time.process_time() - begun)
    return {
        "driver_cpu_ms_per_checkpoint": each,
        "digest_gb_per_cpu_second": digest,
        "node_check_cpu_ms": check,
        "files_per_checkpoint": len(outcome.files),
        "trace_bytes_per_checkpoint": sum(file.bytes for file in outcome.files),
        "outcome_pickled_bytes": len(pickle.dumps(outcome)),
        "notes_per_checkpoint": len(list((out / NOTES).glob("step0*"))),
    }
