"""A new user in a fresh folder, with wrong paths, wrong files and the wrong machine.

Each message says what happened, where, and what to do; none is a traceback.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from mfgjax.cli import main
from mfgjax.cli.failures import TRACEBACK
from mfgjax.trace.storage import read_metadata


@pytest.fixture(autouse=True)
def fresh_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TRACEBACK, raising=False)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(main.app, [str(a) for a in arguments])


def refused(*arguments, code=2):
    """The one message of a command that fails with exit code `code`."""
    shown = run(*arguments)
    assert shown.exit_code == code, shown.output
    assert shown.stdout == ""
    assert "Traceback" not in shown.stderr
    assert shown.stderr.startswith("error: ")
    return shown.stderr


@pytest.fixture
def trace(sweep_folder):
    return sorted(sweep_folder.glob("*.safetensors"))[0]


def rewrite(trace, path, metadata=None, **tensors):
    """A copy of a trace with other tensors or metadata, unchecked."""
    stored = json.loads(read_metadata(trace).to_json()) | (metadata or {})
    save_file(load_file(trace) | tensors, path, {"mfgjax_trace": json.dumps(stored)})


class TestPaths:
    def test_no_such_folder(self):
        for command in ("track", "analyze", "architectures"):
            assert "nowhere: no such folder" in refused(command, "nowhere")

    def test_a_file_for_a_folder(self, trace):
        assert "use `mfgjax fit`" in refused("track", trace)

    def test_a_folder_for_a_file(self, sweep_folder):
        assert "mfgjax track" in refused("fit", sweep_folder)

    def test_a_folder_without_traces(self, fresh_folder):
        assert "Write some with mfgjax-extract" in refused("track", ".")
        (fresh_folder / "run").mkdir()
        (fresh_folder / "run" / "a.statistics.safetensors").touch()
        assert "There are some in run: name that folder" in refused("track", ".")

    def test_traces_under_another_name(self, fresh_folder, trace):
        shutil.copy(trace, "step0.safetensors")
        told = refused("track", ".")
        assert "step0.safetensors is a trace, under a name that is not looked for" in told
        assert "rename it to step0.statistics.safetensors" in told
        shutil.copy(trace, "a.statistics.safetensors")
        assert "is of the decoder: choose that stream" in refused(
            "track", ".", "--stream", "encoder"
        )

    def test_wrong_paths_are_told_before_anything_is_imported(self):
        """In a process of its own, whose modules tell what was imported."""
        code = (
            "import sys\n"
            "from typer.testing import CliRunner\n"
            "from mfgjax.cli.main import app\n"
            "for words in ('track nowhere', 'robustness .', 'fit none.csv', 'track /dev/null'):\n"
            "    assert CliRunner().invoke(app, words.split()).exit_code == 2\n"
            "assert not {'jax', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def test_no_such_file(self):
        assert "none.csv: no such file" in refused("fit", "none.csv")
        assert "none.safetensors: no such file" in refused("fit", "none.safetensors")
        assert "notes.txt: a trace (.safetensors), .csv" in refused("fit", "notes.txt")

    @pytest.mark.parametrize("out", ["taken", "taken/below"])
    def test_results_where_a_file_is(self, fresh_folder, sweep_folder, out):
        (fresh_folder / "taken").touch()
        told = refused("track", sweep_folder, "--out", out)
        assert "taken is a file" in told
        assert "Choose another" in told

    def test_results_where_nothing_may_be_written(self, sweep_folder, monkeypatch):
        def refuse(dir):
            raise PermissionError(13, "Permission denied", str(dir))

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        told = refused("analyze", sweep_folder, "--out", "new")
        assert "(Permission denied). Choose another folder" in told

    def test_a_full_disk(self, sweep_folder, monkeypatch):
        def full(*arguments, **settings):
            raise OSError(28, "No space left on device", "results/trajectory.csv")

        monkeypatch.setattr("mfgjax.track", full, raising=False)
        assert "No space left on device" in refused("track", sweep_folder, code=1)


class TestFiles:
    def test_text_with_another_name(self, fresh_folder):
        path = fresh_folder / "a.statistics.safetensors"
        path.write_text("step,loss\n0,10.8\n")
        for arguments in (["track", "."], ["fit", path]):
            told = refused(*arguments)
            assert "a.statistics.safetensors: truncated or not a safetensors file" in told
            assert "extract again" in told

    def test_a_table_is_no_damaged_trace(self, fresh_folder, trace):
        (fresh_folder / "results.csv").write_text("layer,congestion\n0,3\n")
        told = refused("compare", "results.csv", trace)
        assert "results.csv: not a trace. Name a file *.statistics.safetensors" in told
        assert "extract" not in told.replace("mfgjax-extract", "")

    def test_few_texts_are_refused_with_their_file(self, tmp_path, trace):
        few = tmp_path / "step0.statistics.safetensors"
        first = {name: value[:2] for name, value in load_file(trace).items()}
        rewrite(trace, few, {"text_count": 2}, **first)
        for command, named in (("track", tmp_path), ("analyze", tmp_path), ("fit", few)):
            assert f"{named}: 2 texts give no standard error" in refused(command, named)
        assert f"{few}: 2 texts" in refused("compare", few, trace)

    def test_truncated(self, fresh_folder, trace):
        whole = trace.read_bytes()
        (fresh_folder / "a.statistics.safetensors").write_bytes(whole[: len(whole) // 2])
        assert "truncated" in refused("track", ".")

    def test_probabilities_for_logits(self, fresh_folder, trace):
        probability = load_file(trace)["probability_sum"]
        rewrite(trace, "a.statistics.safetensors", logit_sum=probability)
        told = refused("track", ".")
        assert "'logit_sum' holds probabilities" in told
        assert "as mfgjax-extract does" in told

    def test_not_a_number(self, fresh_folder, trace):
        logits = load_file(trace)["logit_sum"]
        logits[3, 1, 2] = np.nan
        rewrite(trace, "a.statistics.safetensors", logit_sum=logits)
        assert "'logit_sum' holds nan at (3, 1, 2)" in refused("fit", "a.statistics.safetensors")

    def test_another_version(self, fresh_folder, trace):
        rewrite(trace, "a.statistics.safetensors", {"version": 2})
        told = refused("track", ".")
        assert "version 2, this mfgjax reads version 1. Upgrade mfgjax" in told

    def test_two_models_in_one_folder(self, fresh_folder, trace):
        rewrite(trace, "a.statistics.safetensors")
        rewrite(trace, "b.statistics.safetensors", {"revision": "b", "step": 7, "model": "other"})
        told = refused("track", ".")
        assert "model is 'other'" in told
        assert "a folder of their own" in told

    def test_sums_where_tokens_are_needed(self, trace):
        told = refused("fit", trace, "--quality", "median")
        assert "name the .tokens.safetensors of this checkpoint" in told

    def test_safetensors_that_are_no_trace(self, fresh_folder):
        save_file({"weight": np.zeros(3, np.float32)}, "model.safetensors")
        assert "not an mfgjax trace" in refused("fit", "model.safetensors")


class TestOptions:
    @pytest.mark.parametrize(
        "arguments",
        [["nonesuch"], ["track"], ["track", ".", "--resample", "5"], ["track", ".", "--seed", "x"]],
    )
    def test_usage_points_at_the_help(self, arguments):
        shown = run(*arguments)
        assert shown.exit_code == 2
        assert "--help" in shown.stderr

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["simulate", "--out", "x", "--congestion", "1;2"], "separate values by commas: 0,12"),
            (["simulate", "--out", "x", "--steps", "5"], "one of each per checkpoint"),
            (["fit", "layer.csv", "--objective", "l2"], "'l2' is not one of l1, kl, equilibrium"),
            (["fit", "layer.csv", "--quality", "median"], "--quality is for traces"),
            (["bifurcation", "--experiments"], "say where with --out"),
            (["demo", "--memory", "inf"], "--memory is inf; a number was expected"),
            (["simulate", "--out", "x", "--dispersion", "inf"], "--dispersion is inf"),
            (["decomposition", "{sweep}", "--strong", "nan"], "--strong is nan"),
            (["track", "{sweep}", "--documents", "bad.txt"], "bad.txt: not text in UTF-8"),
        ],
    )
    @pytest.mark.parametrize("quiet", [[], ["--quiet"]])
    def test_values_are_explained(self, fresh_folder, sweep_folder, arguments, words, quiet):
        (fresh_folder / "layer.csv").write_text("quality,1,0\nload,3,1\n")
        (fresh_folder / "bad.txt").write_bytes(b"\xff")
        arguments = [word.format(sweep=sweep_folder) for word in arguments]
        assert words in refused(*arguments, *quiet)


class TestMachine:
    @pytest.mark.skipif(jax.default_backend() != "cpu", reason="there may well be such a device")
    def test_no_such_device(self):
        """In a process of its own: jax looks for devices once."""
        done = subprocess.run(
            [sys.executable, "-c", "from mfgjax.cli.main import app; app()", "bifurcation"],
            capture_output=True,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cuda"},
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: jax finds no device (JAX_PLATFORMS=")
        assert "Unset JAX_PLATFORMS" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (MemoryError(), "out of memory: lower --memory"),
            (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), "lower --memory or --resamples"),
            (ImportError("install flax"), "install flax"),
            (KeyError("gate"), "KeyError: 'gate' (test_as_a_user.py"),
        ],
    )
    def test_what_the_library_raises(self, sweep_folder, monkeypatch, error, words):
        def fail(*arguments, **settings):
            raise error

        monkeypatch.setattr("mfgjax.track", fail, raising=False)
        assert words in refused("track", sweep_folder, "--quiet", code=1)
        monkeypatch.setenv(TRACEBACK, "1")
        assert run("track", sweep_folder).exception is error

    def test_doctor_fails_when_a_check_does(self, monkeypatch):
        from mfgjax.doctor.self_test import Check

        def found(passed):
            checks = [Check("equilibria", passed, "error 1e-3", "do not trust them")]
            monkeypatch.setattr("mfgjax.doctor.self_test.run_self_test", lambda: checks)
            return run("doctor"), run("doctor", "--json")

        for shown in found(True):
            assert shown.exit_code == 0
        for shown in found(False):
            assert shown.exit_code == 1
            assert "do not trust them" in shown.stdout
