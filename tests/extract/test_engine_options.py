"""Which engine `--on` names, what does not go together, and what must be installed."""

import sys

import pytest
from typer.testing import CliRunner

from mfgjax_extract.cli import app
from mfgjax_extract.engines.processes import _share_of_gpus


@pytest.fixture
def checkpoints(run_folder):
    return run_folder


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--on", "locale:4"], "expected local:N with N from 1 (processes here), ray"),
        (["--on", "local:0"], "expected local:N with N from 1"),
        (["--on", "ray://here"], "expected local:N with N from 1"),
        (["--on", "local:1", "--per-checkpoint", "gpu=x"], "'gpu=x': expected gpu=N, cpu=N"),
        (["--on", "local:1", "--per-checkpoint", "gpus=1"], "expected gpu=N, cpu=N"),
        (["--on", "local:1", "--per-checkpoint", "cpu=1,cpu=2"], "names cpu twice"),
        (["--on", "local:1", "--per-checkpoint", "gpu=1"], "say --device cuda"),
        (["--on", "ray", "--device", "cuda"], "say how many, --per-checkpoint gpu=1"),
        (["--on", "ray", "--device", "cuda:1"], "its own GPUs only"),
        (["--on", "local:9", "--per-checkpoint", "memory=900TB"], "needs 8.1e+06 GB"),
        (["--per-checkpoint", "cpu=1"], "--on, which is not there"),
    ],
)
def test_wrong_options_are_exit_code_2(checkpoints, texts_file, tmp_path, options, words):
    told = CliRunner().invoke(
        app, [str(checkpoints), "--texts", str(texts_file), "--out", str(tmp_path / "o"), *options]
    )
    assert told.exit_code == 2 and words in told.stderr


@pytest.mark.parametrize("module", ["ray", "submitit"])
def test_an_engine_whose_package_is_missing_says_what_to_install(
    checkpoints, texts_file, tmp_path, monkeypatch, module
):
    monkeypatch.setitem(sys.modules, module, None)
    for name in ("ray_tasks", "slurm"):
        monkeypatch.delitem(sys.modules, f"mfgjax_extract.engines.{name}", raising=False)
    on = {"ray": "ray", "submitit": "slurm"}[module]
    words = [checkpoints, "--texts", texts_file, "--out", tmp_path, "--on", on]
    told = CliRunner().invoke(app, [str(w) for w in words])
    assert told.exit_code == 1 and f"pip install 'mfgjax-extract[{on}]'" in told.stderr


def test_slurm_without_sbatch_says_where_to_start(checkpoints, texts_file, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    words = [checkpoints, "--texts", texts_file, "--out", tmp_path / "o", "--on", "slurm"]
    told = CliRunner().invoke(app, [str(w) for w in words])
    assert told.exit_code == 1 and "on a login node" in told.stderr


def test_places_share_the_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert _share_of_gpus(2, 2) == ["4,5", "6,7"]
    with pytest.raises(ValueError, match="needs 6 GPUs; there are 4"):
        _share_of_gpus(3, 2)
