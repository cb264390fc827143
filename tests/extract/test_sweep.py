"""The command on a folder of checkpoints: written by torch, read by `mfgjax.trace`."""

import json
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mfgjax.trace import read_trace
from mfgjax.trace.statistics import statistics_of
from mfgjax_extract import checkpoint
from mfgjax_extract.cli import app
from mfgjax_extract.identity import is_done
from mfgjax_extract.load import load_model, load_tokenizer
from mfgjax_extract.revisions import list_revisions
from mfgjax_extract.trace_file import read_metadata

TEXTS = ["the router", "sends a token to the experts it scores highest", "a b c", "load " * 5]
FLOAT16_ROUNDING = 2**-11
"""Relative; stored token logits are float16, the reference is float32."""


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="module")
def traces(run_folder, texts_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("traces")
    result = run(run_folder, "--texts", texts_file, "--out", out, "--tokens", "step0-*")
    assert result.exit_code == 0, result.output
    return out


def reference(run_folder, text):
    """Router logits that transformers itself reports, one text at a time, without padding."""
    revision = list_revisions(str(run_folder), ["step0-*"])[0]
    model = load_model(revision, "auto", "cpu", trust_remote_code=False)
    ids = load_tokenizer(revision, False)(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return torch.stack(model(ids, output_router_logits=True).router_logits, dim=1).numpy()


def test_contract_both_forms_are_read_and_agree(traces):
    tokens = read_trace(traces / "step0-tokens0.tokens.safetensors")
    stored = read_trace(traces / "step0-tokens0.statistics.safetensors")
    again = statistics_of(tokens).statistics
    np.testing.assert_array_equal(stored.statistics.token_count, again.token_count)
    np.testing.assert_array_equal(stored.statistics.dispatch_count, again.dispatch_count)
    for name in ("logit_sum", "centred_square_sum", "probability_sum"):
        got, want = getattr(stored.statistics, name), getattr(again, name)
        np.testing.assert_allclose(got, want, rtol=4 * FLOAT16_ROUNDING, atol=1e-3)


def test_contract_metadata(traces, run_folder):
    first = read_trace(traces / "step0-tokens0.statistics.safetensors").metadata
    second = read_trace(traces / "step80-tokens81920.statistics.safetensors").metadata
    assert (first.experts, first.top_k, first.aux_loss_coef) == (8, 3, 0.02)
    assert (first.step, first.tokens_seen) == (0, 0)
    assert (second.step, second.tokens_seen) == (80, 81920)
    assert first.layers == ("layers.0.mlp.gate", "layers.1.mlp.gate")
    assert (first.scoring, first.stream, first.dtype) == ("softmax", "decoder", "float32")
    assert first.model == run_folder.name
    assert first.texts_hash == second.texts_hash
    assert not (traces / "step80-tokens81920.tokens.safetensors").exists()


@pytest.mark.parametrize("text", range(len(TEXTS)))
def test_logits_are_those_of_the_model_text_by_text(traces, run_folder, text):
    trace = read_trace(traces / "step0-tokens0.tokens.safetensors")
    want = reference(run_folder, TEXTS[text])
    got = trace.logits[trace.text == text]
    np.testing.assert_allclose(got, want, rtol=FLOAT16_ROUNDING, atol=1e-5)
    chosen = np.sort(trace.choices[trace.text == text], axis=-1)
    np.testing.assert_array_equal(chosen, np.sort(np.argsort(-want)[..., :3], axis=-1))


def test_second_run_skips_and_other_settings_are_refused(traces, run_folder, texts_file):
    times = {p.name: p.stat().st_mtime_ns for p in traces.glob("*.safetensors")}
    quiet = run(
        *(run_folder, "--texts", texts_file, "--out", traces, "--tokens", "step0-*"),
        *("--json", "--quiet"),
    )
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    assert [c["written"] for c in json.loads(quiet.stdout)["checkpoints"]] == [False, False]
    same = run(run_folder, "--texts", texts_file, "--out", traces, "--tokens", "step0-*")
    assert same.exit_code == 0 and same.output.count("done before") == 2
    assert times == {p.name: p.stat().st_mtime_ns for p in traces.glob("*.safetensors")}
    other = run(run_folder, "--texts", texts_file, "--out", traces, "--max-tokens", 3)
    assert other.exit_code == 2
    assert "max_tokens" in other.output and "--overwrite" in other.output


def test_a_killed_sweep_leaves_no_half_file_and_resumes(
    run_folder, texts_file, tmp_path, monkeypatch
):
    calls = []

    def killed(model, ids, mask):
        calls.append(ids)
        if len(calls) == 6:  # 4 texts, one per batch: the second checkpoint is under way
            raise KeyboardInterrupt
        return run_batch(model, ids, mask)

    run_batch = checkpoint.run_batch
    args = (run_folder, "--texts", texts_file, "--out", tmp_path, "--batch-tokens", 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "run_batch", killed)
        stopped = run(*args)
        assert stopped.exit_code == 130
        assert "Run the same command to go on" in stopped.stderr
    names = sorted(p.name for p in tmp_path.glob("*.*") if p.is_file())
    assert names == ["step0-tokens0.statistics.safetensors", "step0-tokens0.tokens.safetensors"]
    resumed = run(*args)
    assert resumed.exit_code == 0 and "step0-tokens0: done before" in resumed.output
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


@pytest.mark.parametrize("keep", [4, 100, -1])
def test_a_truncated_file_is_not_taken_for_done(traces, tmp_path, keep):
    content = (traces / "step0-tokens0.statistics.safetensors").read_bytes()
    broken = tmp_path / "step0-tokens0.statistics.safetensors"
    broken.write_bytes(content[:keep])
    with pytest.raises(ValueError, match="delete it"):
        is_done(broken, {})


def test_batches_do_not_change_the_statistics(traces, run_folder, texts_file, tmp_path):
    args = ("--texts", texts_file, "--out", tmp_path, "--statistics-only", "--batch-tokens", 1)
    assert run(run_folder, "--revisions", "step0-*", *args).exit_code == 0
    name = "step0-tokens0.statistics.safetensors"
    batched, single = read_trace(traces / name).statistics, read_trace(tmp_path / name).statistics
    np.testing.assert_allclose(batched.logit_sum, single.logit_sum, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(batched.dispatch_count, single.dispatch_count)


def test_missing_weights_are_refused(run_folder, texts_file, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "ckpt"
    shutil.copytree(run_folder / "step0-tokens0", copy)
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.0.mlp.gate.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    result = run(copy, "--texts", texts_file, "--out", tmp_path / "out")
    assert result.exit_code == 1 and "filled with random numbers" in result.output


def test_a_bad_checkpoint_does_not_stop_the_others(traces, run_folder, texts_file, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(run_folder, models)
    weights = models / "step0-tokens0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    args = (
        "--texts",
        texts_file,
        "--out",
        tmp_path / "out",
        "--name",
        run_folder.name,
        "--json",
        "-q",
    )
    result = run(models, *args, "--tokens", "step0-*")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1 and "step0-tokens0: failed: " in result.stderr
    bad, good = json.loads(result.stdout)["checkpoints"]
    assert "truncated or damaged" in bad["failed"] and good["written"]
    (path,) = (tmp_path / "out").glob("*.safetensors")
    assert path.read_bytes() == (traces / path.name).read_bytes()


def test_metadata_names_the_text_set_not_a_path(traces, run_folder):
    metadata = read_metadata(traces / "step0-tokens0.statistics.safetensors")
    assert str(run_folder.parent) not in str(metadata)
