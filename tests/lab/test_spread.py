"""A lab on two processes: the files of a serial one, whatever dies, and what is told."""

import json
import shutil
import sys

import pytest
from typer.testing import CliRunner

from mfgjax.cli import main

CONTENT = {
    "shape": {"experts": 6, "top_k": 2, "layers": 1, "width": 16, "hidden": 8},
    "plan": {"steps": 4, "chunk": 2, "batch": 1, "length": 16, "warmup": 1},
    "seeds": 2,
    "held_out": 6,
    "traces": 2,
    "arms": [{"rule": "leaky", "congestion": [5, 50]}],
}
RULES = {
    # the first worker that reads it dies
    "killer": """
import multiprocessing, os, pathlib, signal
from mfgjax.lab import Rule, choose
mark = pathlib.Path(__file__).with_suffix(".killed")
if multiprocessing.parent_process() is not None and not mark.exists():
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)
def select(logits, state, context):
    return choose(logits, logits / 2, context.top_k)
RULE = Rule(select)
""",
    "bad": """
import jax.numpy as jnp
from mfgjax.lab import Rule, choose
def loss(layers, state, context):
    return jnp.nan
RULE = Rule(lambda z, s, c: choose(z, z, c.top_k), loss=loss)
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    (folder / "tiny.json").write_text(json.dumps(CONTENT))
    for name, text in RULES.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def run(folder, out, *more, rules=("killer",)):
    words = ["lab", "run", "--preset", folder / "tiny.json", "--out", out, "--json", *more]
    for name in rules:
        words += ["--rule", folder / f"{name}.py"]
    return CliRunner().invoke(main.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def serial(folder):
    done = run(folder, folder / "serial")
    assert done.exit_code == 0, done.output
    return folder / "serial"


def contents(out):
    files = (path for path in out.rglob("*") if path.is_file() and ".tasks" not in path.parts)
    return {path.relative_to(out): path.read_bytes() for path in files}


def test_files_are_those_of_a_serial_lab_though_a_worker_is_killed(folder, serial, monkeypatch):
    out = folder / "spread"
    done = run(folder, out, "--on", "local:2")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("its process was killed; tried again (1 of 3)") == 1
    assert contents(out) == contents(serial)
    assert json.loads(done.stdout)["device"] == "cpu: cpu"
    assert len(contents(out)) > 3 * 2 * 3  # traces and measures of three arms and two seeds

    def none(*_):
        raise AssertionError("an engine for a lab that is done")

    monkeypatch.setattr("mfgjax.engines.engine_for", none)
    again = run(folder, out, "--on", "local:2")
    assert again.exit_code == 0, again.output
    assert again.stderr.count("done before") == 3
    assert contents(out) == contents(serial)


def test_a_loss_that_is_no_number_leaves_the_other_arms_done(folder, serial):
    out = folder / "bad"
    shutil.copytree(serial, out)
    shutil.rmtree(out / "arms/leaky-congestion=5/seed1")  # to be measured again
    done = run(folder, out, "--on", "local:1", rules=("killer", "bad"))
    assert done.exit_code == 1, done.output
    line = "bad-0 (bad): failed: arm bad, seed 0, step 0: its loss is no number"
    assert done.stderr.replace("\n", " ").count(line) == 1
    assert done.stderr.count("failed") == 1
    assert len(json.loads(done.stdout)["runs"]) == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--on", "locale:2"], "expected local:N with N from 1"),
        (["--on", "local:0"], "expected local:N with N from 1"),
        (["--on", "local:1", "--per-task", "gpu=x"], "--per-task 'gpu=x': expected gpu=N"),
        (["--per-task", "cpu=1"], "add --on"),
    ],
)
def test_wrong_options_are_exit_code_2(folder, options, words):
    told = run(folder, folder / "options", *options, rules=())
    assert told.exit_code == 2, told.output
    assert words in told.stderr


@pytest.mark.parametrize(("module", "extra"), [("ray", "ray"), ("submitit", "slurm")])
def test_an_engine_whose_package_is_missing_says_what_to_install(
    folder, tmp_path, monkeypatch, module, extra
):
    monkeypatch.setitem(sys.modules, module, None)
    for name in ("ray_tasks", "slurm"):
        monkeypatch.delitem(sys.modules, f"mfgjax.engines.{name}", raising=False)
    told = run(folder, tmp_path, "--on", extra, rules=())
    assert told.exit_code == 1, told.output
    assert f"pip install 'mfgjax[{extra}]'" in told.stderr.replace("\n", " ")
