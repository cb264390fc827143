"""`mfgjax import` as a user meets it; the readers are tested in tests/trace/readers."""

import json

import numpy as np
import pytest
import scipy.stats
from typer.testing import CliRunner

from mfgjax.cli.main import app
from mfgjax.trace import TokenTrace, read_trace

EXPERTS, TOP_K, TEXTS, TOKENS = 6, 2, 5, 7


@pytest.fixture(autouse=True)
def fresh_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def choices():
    odds = np.random.default_rng(0).normal(size=(TEXTS, TOKENS, 2, EXPERTS))
    return np.argsort(-odds, axis=-1)[..., :TOP_K]


def run(*words):
    return CliRunner().invoke(app, ["import", *map(str, words)])


def write_prompts(path, choices):
    """MoELens: the softmax of logits that are 2 for the experts chosen and 0 elsewhere."""
    prompts = []
    for text in choices:
        layers = []
        for layer in range(2):
            tokens = []
            for chosen in text[:, layer]:
                odds = np.where(np.isin(np.arange(EXPERTS), chosen), np.e**2, 1)
                probability = [round(p, 5) for p in (odds / odds.sum()).tolist()]
                tokens.append({"top_experts": chosen.tolist(), "all_probs": probability})
            layers.append({"layer": layer, "tokens": tokens})
        prompts.append({"prompt": "x", "layers": layers})
    path.write_text(json.dumps({"prompts": prompts}))


def test_logits_become_a_trace(fresh_folder, choices):
    write_prompts(fresh_folder / "moe_routing_trace.json", choices)
    words = ["moelens", "moe_routing_trace.json", "--model", "olmoe", "--revision", "a/b"]
    shown = run(*words, "--out", "traces", "--json")
    assert shown.exit_code == 0, shown.output
    path = json.loads(shown.stdout)["trace"]
    trace = read_trace(path)
    assert isinstance(trace, TokenTrace)
    assert (path, trace.metadata.model) == ("traces/a-b.tokens.safetensors", "olmoe")
    np.testing.assert_array_equal(trace.choices, choices.reshape(-1, 2, TOP_K))
    assert "next: mfgjax fit traces/a-b.tokens.safetensors" in shown.stderr
    again = run(*words, "--out", "traces")
    assert again.exit_code == 2 and "is there already. Give another --revision" in again.stderr


def test_choices_alone_become_loads(fresh_folder, choices):
    lines = [json.dumps({"choices": [{"routed_experts": text.tolist()}]}) for text in choices]
    (fresh_folder / "r.jsonl").write_text("\n".join(lines))
    words = ["vllm", "r.jsonl", "--experts", EXPERTS, "--out", "loads"]
    shown = run(*words, "--json")
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)
    loads = told["tables"]["loads"]
    assert told["trace"] is None and "no congestion" in loads["note"]
    assert told["files"] == [f"loads/loads.{suffix}" for suffix in ("csv", "md", "tex")]
    for layer, row in enumerate(loads["rows"]):
        counts = np.bincount(choices[:, :, layer].ravel(), minlength=EXPERTS)
        assert row["entropy"] == pytest.approx(scipy.stats.entropy(counts) / np.log(EXPERTS))
        assert row["max_violation"] == pytest.approx(counts.max() / counts.mean() - 1)
        assert row["largest_load"] == pytest.approx(counts.max() / counts.sum())
        assert row["max_violation_low"] < row["max_violation"] < row["max_violation_high"]
        assert 0 <= row["entropy_low"] < row["entropy_high"] <= 1
    table = run(*words).stdout
    assert "max violation" in table and "5 x text" in table and "no congestion" in table


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["vllm", "r.json"], "give --experts M"),
        (["vllm", "r.json", "--experts", 4, "--model", "x"], "--model is not for vllm"),
        (["sglang", "r.json", "--first-step", 4], "--first-step is not for sglang"),
        (["moelens", "none.json"], "none.json: no such file or folder"),
        (["megatron", "."], "no router_trace_rank<r>.jsonl in this folder"),
        (["sglang", "r.json", "--top-k", 2], "not a torch.save archive"),
    ],
)
def test_what_is_missing_is_told(fresh_folder, words, told):
    (fresh_folder / "r.json").write_text("{}")
    shown = run(*words, "--out", "traces")
    assert shown.exit_code == 2
    assert shown.stderr.startswith("error: ") and told in shown.stderr
    assert not (fresh_folder / "traces").exists()
