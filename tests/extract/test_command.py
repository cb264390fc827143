"""`inspect`, `--dry-run`, wrong input, closed streams and the download cache."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from rich.console import Console
from typer.testing import CliRunner

import mfgjax_extract
from mfgjax_extract.cli import app
from mfgjax_extract.hub_cache import delete_download
from mfgjax_extract.progress import SweepProgress
from mfgjax_extract.revisions import Revision


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch, texts_file, tmp_path):
    def fail(_model):
        raise RuntimeError("no network")

    monkeypatch.setattr("huggingface_hub.list_repo_refs", fail)
    result = run("org/moe", "--revisions", "s*", "--texts", texts_file, "--out", tmp_path)
    assert result.exit_code == 1 and "org/moe: the hub does not list" in result.output


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError("name or service not known"), 1, "the hub cannot be asked (name or service"),
        (RepositoryNotFoundError("404", response=Mock()), 2, "no such model on the hub"),
        (RevisionNotFoundError("404", response=Mock()), 2, "the hub has no revision 'main'"),
    ],
)
def test_a_misspelled_model_is_told_at_the_first_question(
    monkeypatch, texts_file, tmp_path, error, code, words
):
    """Loading would ask six times, over 49 s."""
    asked = Mock(side_effect=error)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for command in (("org/mo", "--texts", texts_file, "--out", tmp_path), ("inspect", "org/mo")):
        told = run(*command)
        assert (told.exit_code, told.stderr.count("\n")) == (code, 1)
        assert "org/mo: " in told.stderr and words in told.stderr
    assert asked.call_count == 2


def test_inspect_prints_the_router_table(run_folder):
    result = run("inspect", run_folder / "step0-tokens0")
    assert result.exit_code == 0, result.output
    for word in (
        "OlmoeTopKRouter",
        "layers.*.mlp.gate",
        "softmax",
        "0.02",
        "0-1",
        "norm_topk_prob",
    ):
        assert word in result.output


def test_dry_run_lists_modules_and_files_and_writes_nothing(run_folder, texts_file, tmp_path):
    out = tmp_path / "traces"
    args = ("--texts", texts_file, "--out", out, "--tokens", "step80-*", "--dry-run")
    result = run(run_folder, *args, "--layers", r"layers\.1")
    assert result.exit_code == 0, result.output
    assert "layers.0.mlp.gate  OlmoeTopKRouter  M=8  (left out)" in result.output
    assert "layers.1.mlp.gate  OlmoeTopKRouter  M=8\n" in result.output
    assert result.output.count("to write") == 3
    assert not out.exists()


def test_wrong_input_is_one_line_without_a_traceback(texts_file, tmp_path):
    result = run(tmp_path / "none", "--texts", texts_file, "--out", tmp_path)
    assert result.exit_code == 2 and "no such folder" in result.stderr
    assert "Traceback" not in result.output


def test_only_the_named_download_is_deleted(tmp_path):
    repo = tmp_path / "models--org--moe"
    for commit, ref in (("a" * 40, "step1"), ("b" * 40, "step2")):
        (repo / "snapshots" / commit).mkdir(parents=True)
        (repo / "blobs").mkdir(exist_ok=True)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "blobs" / ref).write_text("x" * 10)
        (repo / "snapshots" / commit / "weights").symlink_to(repo / "blobs" / ref)
        (repo / "refs" / ref).write_text(commit)
    assert delete_download(Revision("step1", "org/moe", "step1", None, None), tmp_path) == 10
    assert [p.name for p in (repo / "snapshots").iterdir()] == ["b" * 40]
    assert delete_download(Revision("step1", str(tmp_path), None, None, None), tmp_path) == 0


def test_revisions_from_a_file(run_folder, texts_file, tmp_path):
    listed = tmp_path / "steps.txt"
    listed.write_text("# early\nstep0-tokens0\n\n")
    args = ("--texts", texts_file, "--out", tmp_path, "--statistics-only", "--dry-run")
    result = run(run_folder, "--revisions-file", listed, *args)
    assert result.exit_code == 0, result.output
    assert "step0-tokens0:" in result.output and "step80" not in result.output


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--device", "nonesuch", "Choose cpu, or install torch"),
        ("--dtype", "float8", "one of auto, float32"),
        ("--texts", "none.jsonl", "none.jsonl"),
        ("--out", "texts.jsonl/below", "texts.jsonl"),
        ("--revisions", "nonesuch", "nonesuch"),
        ("--layers", "layers.(1", "'layers.(1' is not a regular expression: missing )"),
    ],
)
def test_wrong_options_are_exit_code_2(run_folder, texts_file, tmp_path, option, value, words):
    options = {"--texts": texts_file, "--out": tmp_path}
    value = texts_file / "below" if option == "--out" else value
    told = run(run_folder, *(w for pair in (options | {option: value}).items() for w in pair))
    assert told.exit_code == 2
    assert told.stdout == "" and told.stderr.startswith("error: ")
    assert words in told.stderr


def test_machines_get_the_table_and_the_plan(run_folder, texts_file, tmp_path):
    table = run("inspect", run_folder / "step0-tokens0", "--json")
    (row,) = json.loads(table.stdout)["routers"]
    assert (row["experts"], row["top_k"], row["layers"]) == (8, 3, [0, 1])
    plan = run(run_folder, "--texts", texts_file, "--out", tmp_path / "t", "--dry-run", "--json")
    found = json.loads(plan.stdout)
    assert [router["tapped"] for router in found["routers"]] == [True, True]
    assert [file["exists"] for file in found["files"]] == [False] * 4


def test_help_and_version_do_not_wait_for_torch():
    code = (
        "import sys\n"
        "from mfgjax_extract.cli import app\n"
        "for words in (['--version'], ['--help'], ['model', '--help']):\n"
        "    try: app(words)\n"
        "    except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mfgjax-extract 0.")


def test_help_in_a_narrow_terminal_without_unicode():
    """The ellipsis of a cut word is not ASCII."""
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "40"}
    command = [sys.executable, "-m", "mfgjax_extract", "--help"]
    done = subprocess.run(command, capture_output=True, env=ascii_only)
    assert done.returncode == 0, done.stderr
    assert b"Exit codes" in done.stdout


@pytest.mark.parametrize(
    ("closed", "code", "told"), [(1, 2, "error: standard output is closed."), (2, 0, "")]
)
def test_a_stream_that_the_shell_closed(closed, code, told):
    command = f'"{sys.executable}" -m mfgjax_extract --version {closed}>&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == code and done.stderr.startswith(told)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("damage", ["truncated", "half", "pickle", "tokenizer"])
def test_a_damaged_checkpoint_is_named(run_folder, texts_file, tmp_path, damage):
    model = tmp_path / "model"
    shutil.copytree(run_folder / "step0-tokens0", model)
    weights = model / "model.safetensors"
    content = weights.read_bytes()
    named = str(model if damage in ("pickle", "tokenizer") else weights)
    if damage == "pickle":
        weights.unlink()
        (model / "pytorch_model.bin").write_bytes(content[:500])
    elif damage == "tokenizer":
        (model / "tokenizer.json").write_text("{")
    else:
        weights.write_bytes(content[: 5 if damage == "truncated" else len(content) // 2])
    told = run(model, "--texts", texts_file, "--out", tmp_path / "out")
    assert told.exit_code == 2 and named in told.stderr and "defect" not in told.stderr


@pytest.mark.parametrize("width", [20, 60, 200])
def test_progress_keeps_to_a_narrow_terminal(width):
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=width)
    texts = SimpleNamespace(ids=[[1], [], [2]])
    with SweepProgress(console, 1) as progress:
        progress.start(Revision("step5000-tokens20B", "m", None, 5000, None), texts)
        progress.batch(2, 10)
    lines = written.getvalue().replace("\r", "\n").split("\n")
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in lines]
    assert any("step5000" in line or "step" in line for line in plain)
    assert all(len(line) <= width for line in plain if "━" in line or "/" in line)


def test_interface_is_complete():
    for name in mfgjax_extract.__all__:
        assert getattr(mfgjax_extract, name) is not None
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = mfgjax_extract.nonesuch
