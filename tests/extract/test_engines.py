"""The same sweep on processes, on a Ray cluster of two nodes, and on submitit's local executor."""

import dataclasses
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import OlmoeForCausalLM
from typer.testing import CliRunner

from mfgjax_extract import checkpoint, shared_folder
from mfgjax_extract import spread as driver
from mfgjax_extract.claim import NOTES
from mfgjax_extract.cli import app
from mfgjax_extract.engines.per_checkpoint import PerCheckpoint
from mfgjax_extract.engines.processes import Processes
from mfgjax_extract.revisions import list_revisions
from mfgjax_extract.spread import RETRIES, SpreadReporter, spread
from mfgjax_extract.sweep import Reporter, sweep
from mfgjax_extract.sweep_settings import SweepSettings
from mfgjax_extract.task import Task, run_task
from mfgjax_extract.texts import read_texts
from mfgjax_extract.trace_file import read_metadata

# Ray forks its daemons from the worker that runs the tests, where jax may have been imported.
pytestmark = [
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
BROKEN = "step4"
ROOT = Path(__file__).parents[2]


class Recorder(SpreadReporter):
    def __init__(self):
        self.outcomes, self.retried, self.held, self.warned = {}, [], [], []

    def skipped(self, revision):
        self.outcomes[revision.name] = None

    def finished(self, revision, outcome):
        self.outcomes[revision.name] = outcome

    def again(self, revision, reason, attempt):
        self.retried.append((revision.name, attempt))

    def waiting(self, revision):
        self.held.append(revision.name)

    def warning(self, words):
        self.warned.append(words)


@pytest.fixture(scope="module")
def models(tmp_path_factory, run_folder, olmoe_config):
    """Five checkpoints, the last one damaged."""
    folder = tmp_path_factory.mktemp("models")
    for seed in range(5):
        torch.manual_seed(seed)
        OlmoeForCausalLM(olmoe_config).save_pretrained(folder / f"step{seed}")
        for path in (run_folder / "step0-tokens0").glob("tokenizer*"):
            shutil.copy(path, folder / f"step{seed}")
    weights = folder / BROKEN / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    return folder


@pytest.fixture(scope="module")
def importable():
    """What nodes import, they find as this process does."""
    folders = [str(Path(__file__).parent), str(ROOT), str(ROOT / "extract")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")]))
        patch.syspath_prepend(folders[0])
        # Ray's workers are nice to all else: beside other tests they would wait for minutes.
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(scope="module")
def faults(importable):
    return importlib.import_module("faulty_tasks")


@pytest.fixture
def run_batch():
    return checkpoint.run_batch


@pytest.fixture(scope="module")
def texts(texts_file):
    return read_texts(texts_file)


def settings_for(out):
    return SweepSettings("tiny", out, batch_tokens=1)


@pytest.fixture(scope="module")
def serial(models, texts, tmp_path_factory):
    """Files of a serial sweep, by name."""
    out = tmp_path_factory.mktemp("serial")
    failed = sweep(list_revisions(str(models), []), texts, settings_for(out), Reporter())
    assert [revision.name for revision in failed] == [BROKEN]
    return contents(out)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


class _Kept:
    """An engine that outlives a sweep: its workers have loaded torch."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def close(self):
        pass


@pytest.fixture(scope="module")
def client_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def nodes(importable, client_port):
    """A Ray cluster of two nodes with one core each; the head serves Ray's clients."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    pytest.importorskip("grpc")
    import ray

    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    head = {**small, "ray_client_server_port": client_port}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(**small)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module", params=["processes", "ray", "submitit"])
def engine(request, importable, tmp_path_factory):
    """How to make the engine, and how many good checkpoints it gets: each job of submitit loads torch,
    for four seconds."""
    one_thread = PerCheckpoint(cpu=1)
    if request.param == "processes":
        made = Processes(2, one_thread)
        yield (lambda: _Kept(made)), 4
        made.close()
    elif request.param == "ray":
        request.getfixturevalue("nodes")
        from mfgjax_extract.engines.ray_tasks import RayTasks

        yield (lambda: RayTasks(None, one_thread)), 4
    else:
        pytest.importorskip("submitit")
        from mfgjax_extract.engines.slurm import SlurmJobs

        out = tmp_path_factory.mktemp("jobs")

        def local():
            jobs = SlurmJobs(out, one_thread, cluster="local", poll_s=0.1)
            jobs.at_once = 2
            return jobs

        yield local, 1


def run(models, texts, out, make, good, reporter, broken=True, **options):
    names = [f"step{i}" for i in range(good)] + [BROKEN] * broken
    revisions = list_revisions(str(models), names)
    failed = spread(revisions, texts, settings_for(out), make, reporter, threads=1, **options)
    return [revision.name for revision in failed]


def files_of(serial, good):
    return {n: c for n, c in serial.items() if int(n[len("step")]) < good}


def test_a_killed_worker_and_a_broken_checkpoint_leave_the_files_of_a_serial_sweep(
    models, texts, serial, engine, faults, tmp_path, monkeypatch
):
    (make, good), seen, out = engine, Recorder(), tmp_path / "out"
    monkeypatch.setattr(driver, "run_task", faults.killed_once)
    assert run(models, texts, out, make, good, seen) == [BROKEN]
    assert contents(out) == files_of(serial, good)
    assert seen.retried == [(faults.KILLED, 1)]  # the one that was killed, and no other
    assert "truncated or damaged" in seen.outcomes[BROKEN].reason
    done = [seen.outcomes[f"step{i}"] for i in range(good)]
    assert all(o.state == "written" and o.tokens == 86 and o.host and o.seconds > 0 for o in done)
    assert {Path(f.path).name for o in done for f in o.files} == contents(out).keys()
    assert not list((out / ".extract").glob("sweep-*.json"))


def test_a_full_disk_stops_the_sweep_and_publishes_nothing(
    models, texts, engine, faults, tmp_path, monkeypatch
):
    monkeypatch.setattr(driver, "run_task", faults.on_a_full_disk)
    make, good = engine
    if good < 4:
        pytest.skip("a job of submitit: the driver that stops is the same")
    with pytest.raises(OSError, match="File too large") as told:
        run(models, texts, tmp_path, make, 1, Recorder(), broken=False)
    assert told.value.filename == str(tmp_path)
    assert contents(tmp_path) == {}


def test_two_drivers_share_one_folder(
    models, texts, serial, engine, tmp_path, monkeypatch, run_batch
):
    """The other one is serial, and in the middle of the checkpoint when this one comes."""
    seen = Recorder()
    args = (models, texts, tmp_path, engine[0], 1, seen, False)
    other = threading.Thread(target=run, args=args)

    def starting(model, ids, mask):
        if not other.ident:
            other.start()
            while not seen.held and other.is_alive():
                other.join(0.01)
        return run_batch(model, ids, mask)

    monkeypatch.setattr(checkpoint, "run_batch", starting)
    sweep(list_revisions(str(models), ["step0"]), texts, settings_for(tmp_path), Reporter())
    other.join()
    assert seen.held == ["step0"] and seen.outcomes["step0"].state == "skipped"
    assert contents(tmp_path) == files_of(serial, 1)


def test_deaths_are_retried_three_times_and_errors_only_when_named(
    models, texts, serial, engine, faults, tmp_path, monkeypatch
):
    make, good = engine
    if good < 4:
        pytest.skip("a job of submitit for each try: the driver that counts is the same")
    seen, out = Recorder(), tmp_path / "out"
    monkeypatch.setattr(driver, "run_task", faults.always_killed)
    assert run(models, texts, out, make, 2, seen, broken=False) == [faults.KILLED]
    assert seen.retried == [(faults.KILLED, n + 1) for n in range(RETRIES)]
    assert contents(out) == {n: c for n, c in serial.items() if n.startswith("step1.")}
    monkeypatch.setattr(driver, "run_task", faults.flaky_once)
    unnamed, named = Recorder(), Recorder()
    assert run(models, texts, tmp_path / "a", make, 1, unnamed, broken=False) == ["step0"]
    assert unnamed.outcomes["step0"].reason == "the hub hung up" and not unnamed.retried
    assert not run(models, texts, tmp_path / "b", make, 1, named, broken=False, retry=["Timeout"])
    assert named.retried == [("step0", 1)] and contents(tmp_path / "b") == files_of(serial, 1)


def test_a_node_that_dies_costs_the_checkpoint_it_was_at(
    models, texts, serial, nodes, faults, tmp_path, monkeypatch
):
    from mfgjax_extract.engines.ray_tasks import RayTasks

    lost = nodes.add_node(num_cpus=1, resources={"doomed": 1}, object_store_memory=80_000_000)
    nodes.wait_for_nodes()

    class OnTheDoomedNode(RayTasks):
        def __init__(self):
            super().__init__(None, PerCheckpoint(cpu=1))
            self._options |= {"resources": {"doomed": 1}}

    class Waiting(Recorder):
        def again(self, revision, reason, attempt):
            super().again(revision, reason, attempt)
            nodes.add_node(num_cpus=1, resources={"doomed": 1}, object_store_memory=80_000_000)

    seen, out = Waiting(), tmp_path / "out"
    monkeypatch.setattr(driver, "run_task", faults.sleeps_once)

    def pull():
        mark = tmp_path / "out.sleeps"
        while not mark.exists():
            time.sleep(0.05)
        nodes.remove_node(lost, allow_graceful=False)

    puller = threading.Thread(target=pull)
    puller.start()
    assert not run(models, texts, out, OnTheDoomedNode, 1, seen, broken=False)
    puller.join()
    assert seen.retried == [("step0", 1)]
    assert contents(out) == files_of(serial, 1)


def test_a_machine_outside_the_cluster_sweeps_through_rays_client(
    models, texts_file, serial, nodes, client_port, tmp_path
):
    words = [models, "--texts", texts_file, "--out", tmp_path, "--name", "tiny", "--json"]
    words += ["--revisions", f"step0,{BROKEN}", "--batch-tokens", 1, "--per-checkpoint", "cpu=1"]
    words += ["--on", f"ray://127.0.0.1:{client_port}"]
    code = "from mfgjax_extract.cli import app; app()"
    command = [sys.executable, "-c", code, *words]  # this process is in the cluster already
    ended = subprocess.run([str(w) for w in command], capture_output=True, text=True)
    assert ended.returncode == 1 and f"{BROKEN}: failed: " in ended.stderr, ended.stderr
    lines = {line["revision"]: line for line in map(json.loads, ended.stdout.splitlines())}
    assert lines["step0"]["written"] and not lines[BROKEN]["written"]
    assert contents(tmp_path) == files_of(serial, 1)


def test_a_folder_that_is_not_shared_is_told_before_any_model_is_loaded(
    models, texts, tmp_path, monkeypatch
):
    class Elsewhere(Processes):
        """A node that has a folder of its own under the name."""

        def on_every_node(self, function, argument):
            other = tmp_path / "elsewhere"
            (other / NOTES).mkdir(parents=True, exist_ok=True)
            return [function(dataclasses.replace(argument, out=other))]

    monkeypatch.setattr(shared_folder, "APPEARS_S", 0.1)
    monkeypatch.setattr(driver, "run_task", None)  # would fail
    with pytest.raises(shared_folder.NotShared, match="must be a folder that all nodes share"):
        run(models, texts, tmp_path / "o", lambda: Elsewhere(1, PerCheckpoint()), 1, Recorder())
    with shared_folder.handed_over(tmp_path / "o", texts) as handover:
        gone = dataclasses.replace(handover, nonce="of another sweep")
        task = Task(list_revisions(str(models), ["step0"])[0], settings_for(tmp_path), gone)
        outcome = run_task(task)  # a node that joined later
    assert outcome.stops and "does not see what the driver wrote" in outcome.reason


def test_what_one_node_reads_back_and_a_lock_it_does_not_see(texts, tmp_path):
    def ask(function, handover):
        answers = [function(handover), function(handover)]
        assert all(a.shares_claims for a in answers)  # this process holds it in another handle
        return [answers[0], dataclasses.replace(answers[1], shares_claims=False, versions=("x",))]

    with shared_folder.handed_over(tmp_path, texts) as handover:
        warnings = shared_folder.check_nodes(handover, texts, ask)
    assert len(warnings) == 2
    assert "run no second sweep" in warnings[0] and "nodes differ" in warnings[1]
    assert not list((tmp_path / NOTES).glob("sweep-*.json"))


def test_a_worker_outlives_a_killed_driver_until_its_checkpoint_is_written(
    models, texts_file, texts, serial, tmp_path
):
    """Then it ends too; the next driver finds its files."""
    code = (
        "import os, signal, sys, threading, time\n"
        "from mfgjax_extract.cli import app\n"
        "def kill():\n"
        "    import pathlib\n"
        "    out = pathlib.Path(sys.argv[1])\n"
        "    while not list(out.glob('.extract/step0.lock')): time.sleep(.02)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=kill, daemon=True).start()\n"
        "    app(sys.argv[2:])\n"
    )
    script, out = tmp_path / "killed.py", tmp_path / "out"
    script.write_text(code)
    words = ["--texts", texts_file, "--out", out, "--on", "local:1", "--name", "tiny"]
    words += ["--revisions", "step0,step1", "--batch-tokens", 1, "--per-checkpoint", "cpu=1"]
    command = [sys.executable, script, out, models, *words]
    # Returns when the last process that holds its streams has ended: the worker does, too.
    killed = subprocess.run([str(w) for w in command], capture_output=True, text=True)
    assert killed.returncode == -9
    assert contents(out) == files_of(serial, 1)


def test_without_on_nothing_new_is_imported_and_what_is_done_needs_no_engine(
    models, texts_file, serial, tmp_path
):
    for name, content in serial.items():
        (tmp_path / name).write_bytes(content)
    words = [models, "--texts", texts_file, "--out", tmp_path, "--name", "tiny"]
    words = [str(w) for w in [*words, "--revisions", "step0,step1"]]
    code = (
        "import json, sys\n"
        "from mfgjax_extract.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    for more in ([], ["--on", "ray", "--json"]):
        command = [sys.executable, "-c", code, *words, *more]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 0 and ended.stderr.count("done before") == 2, ended.stderr
        *lines, modules = map(json.loads, ended.stdout.splitlines())
        assert not {"ray", "submitit", "torch", "transformers"} & set(modules)
        assert any("engines" in m or "spread" in m for m in modules) == bool(more)
        assert [line["written"] for line in lines] == ([False] * 2 if more else [])


def test_progress_and_json_name_host_rate_and_digest(models, texts_file, serial, tmp_path, capsys):
    words = [models, "--texts", texts_file, "--out", tmp_path, "--name", "tiny", "--json"]
    words += ["--on", "local:1", "--revisions", f"step0,{BROKEN}", "--batch-tokens", 1]
    told = CliRunner().invoke(app, [str(w) for w in words])
    assert told.exit_code == 1
    good, bad = sorted(map(json.loads, told.stdout.splitlines()), key=lambda x: x["revision"])
    assert (good["revision"], good["tokens"]) == ("step0", 86) and good["host"] and good["seconds"]
    assert all(
        read_metadata(Path(f["path"]))["content_digest"] == f["digest"] for f in good["files"]
    )
    assert not bad["written"] and "truncated or damaged" in bad["failed"]
    assert f"{BROKEN}: failed: " in told.stderr and f" s on {good['host']}, 2 files" in told.stderr
    assert contents(tmp_path) == files_of(serial, 1)
