"""What spreading a sweep costs and survives: `python -m benchmarks.sweep_engines --json FILE`.

Small random OLMoEs are extracted serially, then on each engine. A task rests for `--rest` seconds
after its work, in place of a GPU that is busy: without it the machine's cores bound what many
workers can gain, and with it the engine's own cost shows. Files are compared byte by byte.

The kill study runs `mfgjax-extract --on local:2` in a process of its own and, at a random time, kills a
worker or the driver with SIGKILL; the command is run again until it ends with 0. Counted are files that
differ from the serial ones, half-written files that have a trace's name, and extractions begun again.
"""

import dataclasses
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mfgjax_extract import spread as driver
from mfgjax_extract.engines import Engine
from mfgjax_extract.engines.per_checkpoint import PerCheckpoint
from mfgjax_extract.revisions import list_revisions
from mfgjax_extract.shared_folder import answer, handed_over
from mfgjax_extract.spread import SpreadReporter, spread
from mfgjax_extract.sweep import Reporter, sweep
from mfgjax_extract.sweep_settings import SweepSettings
from mfgjax_extract.task import Outcome, Task, run_task

TEXTS = ["the router sends a token to the experts it scores highest " * 2] * 4
ONE_THREAD = PerCheckpoint(cpu=1)
REST = "SWEEP_ENGINES_REST"


def rested(task: Task) -> Outcome:
    """The task, and the time that a GPU would be busy."""
    outcome = run_task(task)
    time.sleep(float(os.environ.get(REST, "0")))
    return outcome


class Noted(SpreadReporter):
    """When the first checkpoint is done."""

    def __init__(self):
        self.first = 0.0

    def finished(self, revision, outcome):
        self.first = self.first or time.perf_counter()


def save_checkpoints(folder: Path, count: int) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    letters = {"[PAD]": 0, " ": 1, **{chr(ord("a") + i): i + 2 for i in range(26)}}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    config = OlmoeConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=16,
        num_experts_per_tok=4,
        pad_token_id=0,
        eos_token_id=None,
    )
    for seed in range(count):
        torch.manual_seed(seed)
        model: Any = OlmoeForCausalLM(config)
        model.save_pretrained(folder / f"step{seed}")
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(
            folder / f"step{seed}"
        )


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def engines(workers: int, scratch: Path, names: list[str]):
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


def engine_costs(models: Path, serial: dict, workers: int, rest: float, scratch: Path, names):
    """Wall time of a sweep on each engine against what its tasks' own seconds would take at best."""
    rows, revisions = [], list_revisions(str(models), [])
    ideal = sum(serial["seconds"] + rest for _ in revisions) / workers
    for name, make in engines(workers, scratch, names):
        out, noted, begun = scratch / name.replace(" ", "-"), Noted(), time.perf_counter()
        settings = SweepSettings("tiny", out)
        failed = spread(revisions, TEXTS, settings, make, noted, ONE_THREAD.cpu)
        wall = time.perf_counter() - begun
        start = max(noted.first - begun - serial["seconds"] - rest, 0.0)
        rows.append(
            {
                "engine": name,
                "checkpoints": len(revisions),
                "wall_seconds": wall,
                "start_seconds": start,
                "ideal_seconds": ideal,
                "wall_less_start_over_ideal": (wall - start) / ideal,
                "files_that_differ": different(contents(out), serial["files"]),
                "failed": len(failed),
            }
        )
    return rows


def driver_costs(models: Path, scratch: Path, tasks: int) -> dict:
    """Milliseconds of the driver per checkpoint that have nothing to do with the model."""
    out = scratch / "driver"
    revisions = list_revisions(str(models), [])
    sweep(revisions[:1], TEXTS, SweepSettings("tiny", out), Reporter())
    outcome = run_there(revisions[0], out)

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
    settings = SweepSettings("tiny", out, overwrite=True)
    spread([revisions[0]] * tasks, TEXTS, settings, Nothing, SpreadReporter(), 1)
    each = 1e3 * (time.process_time() - begun) / tasks
    with handed_over(out, TEXTS) as handover:
        begun = time.process_time()
        for _ in range(20):
            answer(handover)
        check = 1e3 * (time.process_time() - begun) / 20
    return {
        "driver_cpu_ms_per_checkpoint": each,
        "node_check_cpu_ms": check,
        "files_per_checkpoint": len(outcome.files),
        "trace_bytes_per_checkpoint": sum(file.bytes for file in outcome.files),
        "outcome_pickled_bytes": len(pickle.dumps(outcome)),
        "notes_per_checkpoint": len(list((out / ".extract").glob("step0*"))),
    }


def run_there(revision, out: Path) -> Outcome:
    with handed_over(out, TEXTS) as handover:
        settings = SweepSettings("tiny", out, overwrite=True)
        return run_task(Task(revision, settings, handover))


def logged(task: Task) -> Outcome:
    """The task; when it begins and what became of it go to a file beside the traces."""
    log = task.settings.out.with_suffix(".log")
    with log.open("a") as file:
        file.write(f"{task.revision.name} begins\n")
    outcome = run_task(task)
    with log.open("a") as file:
        file.write(f"{task.revision.name} {outcome.state}\n")
    return outcome


def logged_command() -> None:
    """`mfgjax-extract` with `logged` tasks: what the kill study runs."""
    from mfgjax_extract.cli import app

    driver.run_task = logged
    app()


def workers_of(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    found = [int(word) for word in path.read_text().split()] if path.exists() else []
    return [p for p in found if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def kill_study(models: Path, serial: dict, kills: int, scratch: Path, seed: int) -> dict:
    """Kill a worker or the driver at a random time, run the command again until it is done."""
    rng = random.Random(seed)
    found: dict[str, Any] = {"worker": 0, "driver": 0, "ended_before": 0}
    texts = scratch / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    differ, half, partial, repeated = 0, 0, 0, []
    code = "from benchmarks.sweep_engines import logged_command; logged_command()"
    for number in range(kills):
        out, victim = scratch / f"kill{number}", ("worker", "driver")[number % 2]
        words = [sys.executable, "-c", code, models, "--texts", texts, "--out", out, "-q"]
        words += ["--on", "local:2", "--per-checkpoint", "cpu=1", "--name", "tiny"]
        command = [str(word) for word in words]
        run, log = subprocess.Popen(command), out.with_suffix(".log")
        while not log.exists() and run.poll() is None:
            time.sleep(0.02)
        begun = time.monotonic()
        after = rng.uniform(0, serial["span"])
        while time.monotonic() - begun < after and run.poll() is None:
            time.sleep(0.02)
        if run.poll() is not None:
            found["ended_before"] += 1
        else:
            workers = workers_of(run.pid)
            target = rng.choice(workers) if victim == "worker" and workers else run.pid
            os.kill(target, signal.SIGKILL)
            found["driver" if target == run.pid else "worker"] += 1
        code_of_first = run.wait()
        half += sum(serial["files"].get(n) != c for n, c in traces(out).items())
        if code_of_first:
            subprocess.run(command, check=True)
        differ += bool(different(traces(out), serial["files"]))
        partial += len(list(out.glob("*.partial")))
        lines = log.read_text().splitlines()
        idle = sum(line.endswith((" skipped", " held")) for line in lines)
        begins = sum(line.endswith(" begins") for line in lines)
        repeated.append(begins - idle - len(serial["files"]) // 2)
    return {
        "kills": found,
        "sweeps_that_differ_from_serial": differ,
        "half_written_files_with_a_name": half,
        "partial_files_left_at_the_end": partial,
        "checkpoints_begun_again": sum(repeated),
        "most_begun_again_by_one_kill": max(repeated, default=0),
    }


def traces(out: Path) -> dict[str, bytes]:
    return {n: c for n, c in contents(out).items() if n.endswith(".safetensors")}


def different(found: dict[str, bytes], wanted: dict[str, bytes]) -> int:
    """Files that only one has, or that are not the same in both."""
    return sum(found.get(name) != wanted.get(name) for name in found.keys() | wanted.keys())


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
    checkpoints: Annotated[int, typer.Option(help="Of the sweeps.")] = 50,
    workers: Annotated[int, typer.Option(help="Nodes, processes or jobs at a time.")] = 4,
    rest: Annotated[float, typer.Option(help="Seconds that a task's GPU would be busy.")] = 5.0,
    kills: Annotated[int, typer.Option(help="Random times of the kill study.")] = 20,
    seed: int = 0,
    engine: Annotated[
        list[str] | None, typer.Option(help="Some of local, ray, submitit. Default: all.")
    ] = None,
) -> None:
    """Measure the engines against a serial sweep, then kill their processes."""
    from benchmarks.environment import environment

    os.environ[REST] = str(rest)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    driver.run_task = rested
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        models = scratch / "models"
        save_checkpoints(models, checkpoints)
        revisions = list_revisions(str(models), [])
        settings = SweepSettings("tiny", scratch / "serial")
        sweep(revisions[:1], TEXTS, settings, Reporter())  # torch is loaded
        begun = time.perf_counter()
        sweep(revisions, TEXTS, dataclasses.replace(settings, overwrite=True), Reporter())
        wall = time.perf_counter() - begun
        serial = {"files": contents(settings.out), "seconds": wall / checkpoints}
        chosen = engine or ["local", "ray", "submitit"]
        rows = engine_costs(models, serial, workers, rest, scratch, chosen)
        costs = driver_costs(models, scratch, 200)
        few = list_revisions(str(models), [])[:6]
        kept = {r.label for r in few}
        for revision in revisions:
            if revision.label not in kept:
                shutil.rmtree(revision.source)
        some = {n: c for n, c in serial["files"].items() if n.split(".")[0] in kept}
        studied = kill_study(models, {"files": some, "span": 8.0}, kills, scratch, seed)
    table = Table(
        "engine", "wall s", "start s", "ideal s", "(wall - start) / ideal", "files differ"
    )
    for row in rows:
        numbers = [row[k] for k in ("wall_seconds", "start_seconds", "ideal_seconds")]
        table.add_row(
            row["engine"],
            *(f"{x:.1f}" for x in numbers),
            f"{row['wall_less_start_over_ideal']:.2f}",
            str(row["files_that_differ"]),
        )
    console.print(table)
    console.print(costs)
    console.print(studied)
    if json_path:
        record = {
            "environment": {**environment(), "load_average": os.getloadavg()[0]},
            "serial_seconds_per_checkpoint": serial["seconds"],
            "rest_seconds": rest,
            "engines": rows,
            "costs": costs,
            "kills": studied,
        }
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    from benchmarks import sweep_engines  # tasks carry the module's name, not `__main__`

    typer.run(sweep_engines.main)
