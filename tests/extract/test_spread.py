"""The extractor's tasks: what becomes of a checkpoint, what is told of it, and what is not imported."""

import dataclasses
import errno
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mfgjax_extract.cli import app
from mfgjax_extract.engines import shared_folder
from mfgjax_extract.engines.claim import claimed
from mfgjax_extract.engines.shared_folder import handed_over
from mfgjax_extract.revisions import list_revisions
from mfgjax_extract.source import NOTES
from mfgjax_extract.sweep import Reporter, sweep
from mfgjax_extract.sweep_settings import SweepSettings
from mfgjax_extract.task import Task, run_task
from mfgjax_extract.texts import read_texts
from mfgjax_extract.trace_file import read_metadata

GOOD = ["step0-tokens0", "step80-tokens81920"]
BROKEN = "step90-tokens90000"


@pytest.fixture(scope="module")
def models(tmp_path_factory, run_folder):
    """Three checkpoints, the last one damaged."""
    folder = tmp_path_factory.mktemp("models") / "models"
    shutil.copytree(run_folder, folder)
    shutil.copytree(folder / GOOD[0], folder / BROKEN)
    weights = folder / BROKEN / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    return folder


@pytest.fixture(scope="module")
def serial(models, texts_file, tmp_path_factory):
    """Files of a serial sweep, by name."""
    out = tmp_path_factory.mktemp("serial")
    settings = SweepSettings("tiny", out, batch_tokens=1)
    revisions = list_revisions(str(models), [])
    failed = sweep(revisions, read_texts(texts_file), settings, Reporter())
    assert [revision.name for revision in failed] == [BROKEN]
    return contents(out)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_a_killed_worker_and_a_broken_checkpoint_leave_the_files_of_a_serial_sweep(
    models, texts_file, serial, importable, tmp_path, monkeypatch
):
    faults = importlib.import_module("faulty_tasks")
    monkeypatch.setattr("mfgjax_extract.spread.run_task", faults.killed_once)
    out = tmp_path / "out"
    words = [models, "--texts", texts_file, "--out", out, "--name", "tiny", "--json"]
    words += ["--on", "local:1", "--batch-tokens", 1]
    told = CliRunner().invoke(app, [str(w) for w in words])
    assert told.exit_code == 1
    assert contents(out) == serial
    lines = {line["revision"]: line for line in map(json.loads, told.stdout.splitlines())}
    assert sorted(lines) == [*GOOD, BROKEN]
    for name in GOOD:
        line = lines[name]
        assert line["written"] and line["tokens"] == 86 and line["host"] and line["seconds"] > 0
        digests = [read_metadata(Path(f["path"]))["content_digest"] for f in line["files"]]
        assert digests == [f["digest"] for f in line["files"]]
    assert not lines[BROKEN]["written"] and "truncated or damaged" in lines[BROKEN]["failed"]
    assert told.stderr.count(f"{BROKEN}: failed: ") == 1
    assert told.stderr.count("tried again") == 1
    assert f"{faults.KILLED}: its process was killed; tried again (1 of 3)" in told.stderr
    assert f" s on {lines[GOOD[0]]['host']}, 2 files" in told.stderr
    assert not list((out / NOTES).glob("sweep-*.json"))


def test_a_full_disk_a_claim_and_a_folder_that_is_not_shared(
    models, texts_file, importable, tmp_path, monkeypatch
):
    faults = importlib.import_module("faulty_tasks")
    monkeypatch.setattr(shared_folder, "APPEARS_S", 0.1)
    settings = SweepSettings("tiny", tmp_path, batch_tokens=1)
    texts = json.dumps(read_texts(texts_file)).encode()
    with handed_over(tmp_path / NOTES, texts, ()) as handover:
        task = Task(list_revisions(str(models), GOOD)[0], settings, handover)
        full = faults.on_a_full_disk(task)
        assert full.stops and full.number == errno.EFBIG and not contents(tmp_path)
        with claimed(tmp_path / NOTES, task.revision.label):
            assert run_task(task).state == "held"
        gone = dataclasses.replace(handover, nonce="of another sweep")
        outcome = run_task(dataclasses.replace(task, handover=gone))  # a node that joined later
    assert outcome.stops and "does not see what the driver wrote" in outcome.reason


def test_without_on_nothing_new_is_imported_and_what_is_done_needs_no_engine(
    models, texts_file, serial, tmp_path
):
    for name, content in serial.items():
        (tmp_path / name).write_bytes(content)
    words = [models, "--texts", texts_file, "--out", tmp_path, "--name", "tiny"]
    words = [str(w) for w in [*words, "--revisions", ",".join(GOOD)]]
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
        assert ("mfgjax_extract.engines.drive" in modules) == bool(more)
        assert [line["written"] for line in lines] == ([False] * 2 if more else [])
