"""The same tasks on processes, on a Ray cluster of two nodes, and on submitit's local executor."""

import dataclasses
import socket
import subprocess
import sys
import threading
import time

import pytest

from mfgjax_extract.engines import shared_folder
from mfgjax_extract.engines.claim import claimed
from mfgjax_extract.engines.drive import RETRIES, Reporter, drive
from mfgjax_extract.engines.needs import Needs
from mfgjax_extract.engines.processes import Processes
from mfgjax_extract.engines.shared_folder import check_nodes, handed_over
from mfgjax_extract.revisions import list_revisions
from mfgjax_extract.spread import spread
from mfgjax_extract.sweep import Reporter as SweepReporter
from mfgjax_extract.sweep import sweep
from mfgjax_extract.sweep_settings import SweepSettings
from mfgjax_extract.texts import read_texts
from tests.extract.jobs import Job, work

# Ray forks its daemons from the worker that runs the tests, where jax may have been imported.
pytestmark = [
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ONE_CORE = Needs(cpu=1)
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


class Recorder(Reporter):
    def __init__(self):
        self.outcomes, self.retried, self.held = {}, [], []

    def finished(self, name, outcome):
        self.outcomes[name] = outcome

    def again(self, name, reason, attempt):
        self.retried.append((name, attempt))

    def waiting(self, name):
        self.held.append(name)


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

    head = {**NODE, "ray_client_server_port": client_port}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module", params=["processes", "ray", "submitit"])
def engine(request, importable, tmp_path_factory, monkeypatch_module):
    if request.param == "processes":
        made = Processes(2, ONE_CORE)
    elif request.param == "ray":
        request.getfixturevalue("nodes")
        from mfgjax_extract.engines.ray_tasks import RayTasks

        made = RayTasks(None, ONE_CORE)
    else:
        submitit = pytest.importorskip("submitit")
        from mfgjax_extract.engines.slurm import SlurmJobs

        # How long results of a job that ended are waited for: here a disk is local.
        monkeypatch_module.setattr(submitit.Job, "_results_timeout_s", 0.1)

        folder = tmp_path_factory.mktemp("jobs")
        made = SlurmJobs(folder, ONE_CORE, cluster="local", poll_s=0.05)
    made.at_once = 2
    yield made
    made.close()


def written(out):
    return {path.name for path in out.iterdir() if path.is_file()}


def test_deaths_are_retried_three_times_and_errors_only_when_named(engine, tmp_path):
    does = {"killed": "die once", "doomed": "die", "flaky": "fail once", "good": ""}
    if type(engine).__name__ == "SlurmJobs":
        del does["doomed"]  # a Python for each try: the driver that counts is the same
    jobs = [Job(name, tmp_path, what) for name, what in does.items()]
    seen = Recorder()
    failed = drive(work, jobs, engine, seen, tmp_path, retry=["TimeoutError"])
    assert [job.name for job in failed] == [name for name in does if name == "doomed"]
    assert written(tmp_path) == {"killed", "flaky", "good"}
    tries = [("doomed", n + 1) for n in range(RETRIES) if failed]
    assert sorted(seen.retried) == [*tries, ("flaky", 1), ("killed", 1)]  # and nobody beside them
    assert seen.outcomes["good"].host == socket.gethostname()
    unnamed = Recorder()
    jobs = [Job("bad", tmp_path, "fail"), Job("other", tmp_path)]
    assert drive(work, jobs, engine, unnamed, tmp_path) == jobs[:1]
    assert unnamed.outcomes["bad"].reason == "the hub hung up" and not unnamed.retried
    assert unnamed.outcomes["other"].state == "written"


def test_a_full_disk_starts_nothing_more(engine, tmp_path):
    jobs = [Job("full", tmp_path, "fill"), *(Job(f"job{i}", tmp_path) for i in range(5))]
    with pytest.raises(OSError, match="No space left") as told:
        drive(work, jobs, engine, Recorder(), tmp_path)
    assert told.value.filename == str(tmp_path)
    assert len(written(tmp_path)) < 5


def test_what_another_process_holds_is_waited_for_at_the_end(engine, tmp_path):
    seen = Recorder()
    job = Job("held", tmp_path)
    other = threading.Thread(target=drive, args=(work, [job], engine, seen, tmp_path))
    with claimed(tmp_path / "notes", job.name):
        other.start()
        while not seen.held and other.is_alive():
            other.join(0.01)
        assert not written(tmp_path)
    other.join()
    assert seen.held == ["held"] and seen.outcomes["held"].state == "written"


def test_every_node_that_is_known_reads_what_the_driver_wrote(engine, tmp_path):
    answers = []

    def ask(function, handover):
        answers.extend(engine.on_every_node(function, handover))
        return answers

    with handed_over(tmp_path / "notes", b"texts", ("rich",)) as handover:
        assert check_nodes(handover, ask) == []
    assert len(answers) == {"Processes": 1, "RayTasks": 2, "SlurmJobs": 0}[type(engine).__name__]
    assert all(a.shares_claims and "rich" in a.versions[1] for a in answers)
    assert not list((tmp_path / "notes").glob("sweep-*.json"))


@pytest.mark.parametrize("engine", ["ray", "submitit"], indirect=True)
def test_files_are_those_of_a_serial_sweep(engine, run_folder, texts_file, tmp_path, monkeypatch):
    """Of the extractor; a worker loads torch. On processes: test_spread.py, with a worker that is killed."""
    monkeypatch.setattr(type(engine), "close", lambda self: None)
    revisions, texts = list_revisions(str(run_folder), ["step0-*"]), read_texts(texts_file)
    settings = SweepSettings("tiny", tmp_path / "serial", batch_tokens=1)
    assert not sweep(revisions, texts, settings, SweepReporter())
    spread_out = dataclasses.replace(settings, out=tmp_path / "spread")
    assert not spread(revisions, texts, spread_out, lambda: engine, Recorder(), threads=1)
    serial, found = (
        {path.name: path.read_bytes() for path in s.out.iterdir() if path.is_file()}
        for s in (settings, spread_out)
    )
    assert len(serial) == 2 and found == serial


def test_a_node_that_dies_costs_the_task_it_was_at(nodes, tmp_path):
    from mfgjax_extract.engines.ray_tasks import RayTasks

    doomed = {**NODE, "resources": {"doomed": 1}}
    lost = nodes.add_node(**doomed)
    nodes.wait_for_nodes()
    engine, mark = RayTasks(None, ONE_CORE), tmp_path / "notes" / "job.did"
    engine._options |= {"resources": {"doomed": 1}}

    class Waiting(Recorder):
        def again(self, name, reason, attempt):
            super().again(name, reason, attempt)
            nodes.add_node(**doomed)

    def pull():
        while not mark.exists():
            time.sleep(0.05)
        nodes.remove_node(lost, allow_graceful=False)

    seen, puller = Waiting(), threading.Thread(target=pull)
    puller.start()
    assert not drive(work, [Job("job", tmp_path, "sleep once")], engine, seen, tmp_path)
    puller.join()
    assert seen.retried == [("job", 1)] and written(tmp_path) == {"job"}


IN_A_PROCESS = """
import os, pathlib, signal, sys, threading, time
from tests.extract.jobs import Job, work
from mfgjax_extract.engines import engine_for
from mfgjax_extract.engines.drive import Reporter, drive
from mfgjax_extract.engines.needs import Needs
def kill(mark):
    while not mark.exists(): time.sleep(.02)
    os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    on, out, does, dies = sys.argv[1:]
    out = pathlib.Path(out)
    if dies == "True":
        threading.Thread(target=kill, args=(out / "notes/a.did",), daemon=True).start()
    engine = engine_for(on, Needs(cpu=1), out / "notes")
    failed = drive(work, [Job("a", out, does), Job("b", out)], engine, Reporter(), out)
    engine.close()
    sys.exit(len(failed))
"""


def run_in_a_process(tmp_path, on, does, dies):
    script = tmp_path / "driver.py"
    script.write_text(IN_A_PROCESS)
    out = tmp_path / "out"
    out.mkdir()
    words = [sys.executable, script, on, out, does, dies]
    # Returns when the last process that holds its streams has ended: a worker does, too.
    ended = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    return ended, written(out)


def test_a_machine_outside_the_cluster_drives_through_rays_client(nodes, client_port, tmp_path):
    on = f"ray://127.0.0.1:{client_port}"
    ended, files = run_in_a_process(tmp_path, on, "fail", False)  # this one is in the cluster
    assert ended.returncode == 1 and files == {"b"}, ended.stderr


@pytest.mark.parametrize(
    ("words", "asked"), [("Starting Ray client server failed.", 2), ("no route", 1)]
)
def test_a_head_too_busy_to_start_a_server_is_asked_again(monkeypatch, words, asked):
    ray = pytest.importorskip("ray")
    from mfgjax_extract.engines.ray_tasks import RayTasks

    calls = []

    def init(address, **_):
        calls.append(address)
        raise ConnectionError(words)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(RuntimeError, match=f"Ray cannot be reached .{words}"):
        RayTasks("ray://head:10001", ONE_CORE)
    assert calls == ["ray://head:10001"] * asked


def test_a_worker_outlives_a_killed_driver_until_its_files_are_written(importable, tmp_path):
    ended, files = run_in_a_process(tmp_path, "local:1", "rest", True)
    assert ended.returncode == -9 and files == {"a"}


def test_a_folder_that_is_not_shared_and_a_lock_that_is_not_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_folder, "APPEARS_S", 0.1)

    def elsewhere(function, handover):
        """A node that has a folder of its own under the name."""
        return [function(dataclasses.replace(handover, notes=tmp_path / "elsewhere"))]

    def deaf(function, handover):
        answers = [function(handover), function(handover)]
        assert all(a.shares_claims for a in answers)  # this process holds it in another handle
        return [answers[0], dataclasses.replace(answers[1], shares_claims=False, versions=("x",))]

    with handed_over(tmp_path / "notes", b"texts", ()) as handover:
        with pytest.raises(shared_folder.NotShared, match="must be a folder that all nodes share"):
            check_nodes(handover, elsewhere)
        warnings = check_nodes(handover, deaf)
    assert len(warnings) == 2
    assert "run no second sweep" in warnings[0] and "nodes differ" in warnings[1]
    assert not list((tmp_path / "notes").glob("sweep-*"))
