"""Revisions in training order, by name and by glob; texts and their batches."""

import json
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from mfgjax_extract.revisions import Revision, list_revisions, parse_progress
from mfgjax_extract.source import pinned
from mfgjax_extract.texts import batches_of, read_texts


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
