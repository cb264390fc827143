"""Revisions, texts, `inspect`, `--dry-run` and the download cache."""

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
from mfgjax_extract.revisions import Revision, list_revisions, parse_progress
from mfgjax_extract.source import pinned
from mfgjax_extract.texts import batches_of, read_texts


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("step5000-tokens20B", (5_000, 20_000_000_000)),
        ("step80-tokens81920", (80, 81_920)),
        ("stage1-step1000-tokens5B", (1_000, 5_000_000_000)),
        ("step1000", (1_000, None)),
        ("step10K-tokens1.5T", (10_000, 1_500_000_000_000)),
        ("main", (None, None)),
        ("step2fast", (None, None)),
        ("checkpoint-100", (100, None)),
        ("ckpt_5K", (5_000, None)),
        ("iter_0001000", (1_000, None)),
        ("global_step20", (20, None)),
        ("final-checkpoint", (None, None)),
        ("epoch-3", (None, None)),
    ],
)
def test_progress_in_a_revision_name(name, expected):
    assert parse_progress(name) == expected


def test_local_revisions_in_training_order(tmp_path):
    for name in ("step100-tokens5", "step20-tokens1", "step3-tokens0", "notes"):
        (tmp_path / name).mkdir()
        if name != "notes":
            (tmp_path / name / "config.json").write_text("{}")
    names = [r.name for r in list_revisions(str(tmp_path), [])]
    assert names == ["step3-tokens0", "step20-tokens1", "step100-tokens5"]
    assert [r.name for r in list_revisions(str(tmp_path), ["step2*", "step3-*"])] == names[:2]
    with pytest.raises(ValueError, match=r"no revision matches 'step7\*'; there are step3-"):
        list_revisions(str(tmp_path), ["step7*"])


def test_checkpoints_of_the_trainer_in_training_order(tmp_path):
    """Names that count, names that say nothing beside what the trainer noted, and neither."""
    for name, noted in {
        "checkpoint-100": {"global_step": 100, "num_input_tokens_seen": 0},
        "checkpoint-5": None,
        "checkpoint-10": {"global_step": 10, "num_input_tokens_seen": 640},
        "best": {"global_step": 55},
        "run-10": ["not the trainer's"],
        "run-9": None,
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        if noted is not None:
            (tmp_path / name / "trainer_state.json").write_text(json.dumps(noted))
    found = [(r.name, r.step, r.tokens_seen) for r in list_revisions(str(tmp_path), [])]
    assert found == [
        ("checkpoint-5", 5, None),
        ("checkpoint-10", 10, 640),
        ("best", 55, None),
        ("checkpoint-100", 100, None),
        ("run-9", None, None),
        ("run-10", None, None),
    ]
    assert [r.step for r in list_revisions(str(tmp_path / "best"), [])] == [55]


def test_hub_revisions_by_name_and_glob(monkeypatch):
    branches = [SimpleNamespace(name=f"step{n}-tokens{n}B") for n in (10, 5, 20)]
    refs = SimpleNamespace(branches=[*branches, SimpleNamespace(name="main")], tags=[])
    monkeypatch.setattr("huggingface_hub.list_repo_refs", lambda _model: refs)
    found = list_revisions("org/moe", ["step*"])
    assert [(r.hub_revision, r.step) for r in found] == [
        ("step5-tokens5B", 5),
        ("step10-tokens10B", 10),
        ("step20-tokens20B", 20),
    ]
    assert [r.name for r in list_revisions("org/moe", ["a", "b"])] == ["a", "b"]
    assert list_revisions("org/moe", [])[0].hub_revision == "main"


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


def test_a_cached_model_needs_no_hub(monkeypatch, tmp_path):
    snapshot = tmp_path / "models--org--moe" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", Mock(side_effect=OSError))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert pinned(Revision("main", "org/moe", "main", None, None)).hub_revision == "a" * 40


def test_label_is_safe_for_a_file_name():
    revision = Revision("../refs/pr/1 x", "m", "x", None, None)
    assert revision.label == "_refs_pr_1_x"


def test_texts_from_lines_objects_and_folders(tmp_path):
    jsonl = tmp_path / "a.jsonl"
    jsonl.write_text('{"text": "one\\u2028line"}\n\n"two"\n', encoding="utf-8")
    assert read_texts(jsonl) == ["one\u2028line", "two"]
    (tmp_path / "b.txt").write_text("one\n\ntwo\n")
    assert read_texts(tmp_path / "b.txt") == ["one", "two"]
    assert read_texts(tmp_path) == ["one\n\ntwo\n"]
    jsonl.write_text('{"text": "one"}\n{"body": "two"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:2: no string under 'text'.*--text-field"):
        read_texts(jsonl)
    jsonl.write_text("{")
    with pytest.raises(ValueError, match=r"a\.jsonl:1: not JSON"):
        read_texts(jsonl)
    jsonl.write_bytes(b'"one"\r\n"tw\xff"\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:2: byte 0xff is not UTF-8"):
        read_texts(jsonl)
    (tmp_path / "b.txt").write_bytes("\ufeffone\r\ntwo".encode())
    assert read_texts(tmp_path / "b.txt") == ["one", "two"]


def test_batches_hold_every_text_once_within_the_limit():
    ids = [[0] * n for n in (5, 0, 9, 1, 30, 5, 5)]
    batches = batches_of(ids, 20, one_by_one=False)
    assert sorted(i for b in batches for i in b) == [0, 2, 3, 4, 5, 6]
    assert all(len(b) == 1 or len(b) * max(len(ids[i]) for i in b) <= 20 for b in batches)
    assert all(len(b) == 1 for b in batches_of(ids, 20, one_by_one=True))


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
