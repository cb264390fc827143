"""Revisions, texts, `inspect`, `--dry-run` and the download cache."""

import io
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

import mfgjax_extract
from mfgjax_extract.cli import app
from mfgjax_extract.hub_cache import delete_download
from mfgjax_extract.progress import SweepProgress
from mfgjax_extract.revisions import Revision, list_revisions, parse_progress
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
    with pytest.raises(ValueError, match=r"no revision matches 'step7\*'; there are step100"):
        list_revisions(str(tmp_path), ["step7*"])


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
