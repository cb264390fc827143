"""Several sweeps on one folder, killed ones, and a disk that fills."""

import resource
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from typer.testing import CliRunner

from mfgjax_extract import checkpoint
from mfgjax_extract.cli import app
from mfgjax_extract.engines.claim import claimed
from mfgjax_extract.revisions import list_revisions
from mfgjax_extract.sweep import Reporter, sweep
from mfgjax_extract.sweep_settings import SweepSettings
from mfgjax_extract.texts import read_texts


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


class Recorder(Reporter):
    def __init__(self):
        self.told = []

    def done(self, revision, paths):
        self.told.append(("done", revision.name))

    def skipped(self, revision):
        self.told.append(("skipped", revision.name))

    def waiting(self, revision):
        self.told.append(("waiting", revision.name))


@pytest.fixture(scope="module")
def serial(run_folder, texts_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("serial")
    assert run(run_folder, "--texts", texts_file, "--out", out).exit_code == 0
    return contents(out)


def test_two_sweeps_share_one_folder(run_folder, texts_file, tmp_path, monkeypatch, serial):
    """The second starts in the middle of the first one's first checkpoint."""
    settings = SweepSettings(run_folder.name, tmp_path)
    revisions, texts = list_revisions(str(run_folder), []), read_texts(texts_file)
    first, second = Recorder(), Recorder()
    other = threading.Thread(target=sweep, args=(revisions, texts, settings, second))
    run_batch = checkpoint.run_batch

    def starting(model, ids, mask):
        if not other.ident:
            other.start()
            while not second.told:  # until it has passed by what the first one holds
                other.join(0.01)
        return run_batch(model, ids, mask)

    monkeypatch.setattr(checkpoint, "run_batch", starting)
    sweep(revisions, texts, settings, first)
    other.join()
    early, late = (revision.name for revision in revisions)
    assert first.told[0] == ("done", early)
    assert second.told == [("done", late), ("waiting", early), ("skipped", early)]
    assert ("done", late) not in first.told
    assert contents(tmp_path) == serial


def test_a_killed_process_leaves_no_claim(tmp_path):
    code = (
        "import sys, time, pathlib\n"
        "from mfgjax_extract.engines.claim import claimed\n"
        f"with claimed(pathlib.Path({str(tmp_path)!r}), 'main') as mine:\n"
        "    print(mine, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        with claimed(tmp_path, "main") as mine:
            assert not mine
        other.send_signal(signal.SIGKILL)
    with claimed(tmp_path, "main") as mine:
        assert mine


def test_what_killed_writers_left_is_cleared(run_folder, texts_file, tmp_path, serial):
    name = "step0-tokens0.tokens.safetensors"
    for left in (f"{name}.partial", f"{name}.0123456789ab.partial", f"x-{name}.partial"):
        (tmp_path / left).write_bytes(b"half")
    assert run(run_folder, "--texts", texts_file, "--out", tmp_path).exit_code == 0
    found = contents(tmp_path)
    assert found.pop(f"x-{name}.partial") == b"half"  # of another checkpoint: not ours to judge
    assert found == serial


def test_no_room_is_told_before_the_model_runs(run_folder, texts_file, tmp_path, monkeypatch):
    full = shutil._ntuple_diskusage(10**9, 10**9 - 100, 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: full)
    result = run(run_folder, "--texts", texts_file, "--out", tmp_path)
    assert result.exit_code == 1 and "the disk is full: a trace of 0.0 MB" in result.stderr
    assert contents(tmp_path) == {}


def test_a_disk_that_fills_is_an_error_and_publishes_nothing(
    run_folder, texts_file, tmp_path, monkeypatch, serial
):
    """A limit on the size of files stands for the disk: both are an error of the write."""
    run_batch, batches = checkpoint.run_batch, []

    def filling(model, ids, mask):
        batches.append(ids)
        if len(batches) == 2:  # the files are laid out; what is written now no longer fits
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        return run_batch(model, ids, mask)

    args = (run_folder, "--texts", texts_file, "--out", tmp_path, "--batch-tokens", 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "run_batch", filling)
            stopped = run(*args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert stopped.exit_code == 1, stopped.output
    assert "Make room or choose another --out" in stopped.stderr
    assert contents(tmp_path) == {}
    assert run(*args).exit_code == 0
    assert contents(tmp_path).keys() == serial.keys()
