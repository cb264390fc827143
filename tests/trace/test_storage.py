"""Traces survive a round trip, and damaged ones are refused with file, tensor and remedy."""

import dataclasses
import json
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mfgjax.trace import (
    StatisticsTrace,
    TokenTrace,
    TraceError,
    TraceMetadata,
    read_metadata,
    read_sweep,
    read_trace,
    statistics_of,
    write_trace,
)

TEXTS, LAYERS, EXPERTS, TOP_K = 5, 2, 6, 2


def make_trace(step=10, seed=0) -> TokenTrace:
    rng = np.random.default_rng(seed)
    text = np.repeat(np.arange(TEXTS, dtype=np.int32), rng.integers(1, 9, TEXTS))
    logits = rng.normal(size=(len(text), LAYERS, EXPERTS)).astype(np.float32)
    choices = np.argsort(-logits, axis=-1)[..., :TOP_K].astype(np.uint8)
    metadata = TraceMetadata(
        kind="tokens",
        model="tiny",
        revision=f"step{step}",
        step=step,
        experts=EXPERTS,
        top_k=TOP_K,
        layers=("a", "b"),
        texts_hash="x",
        text_count=TEXTS,
    )
    return TokenTrace(metadata, logits, choices, text)


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "step10.tokens.safetensors"
    write_trace(path, make_trace())
    return path


def rewrite(path, **changed):
    """The same file with some tensors or metadata fields replaced."""
    metadata = json.loads(read_metadata(path).to_json())
    tensors = load_file(path)
    for name, value in changed.items():
        (tensors if name in tensors else metadata)[name] = value
    tensors = {name: value for name, value in tensors.items() if value is not None}
    save_file(tensors, path, {"mfgjax_trace": json.dumps(metadata)})


def test_tokens_round_trip(token_file):
    got, want = read_trace(token_file), make_trace()
    assert got.metadata == want.metadata
    np.testing.assert_array_equal(got.logits, want.logits)
    np.testing.assert_array_equal(got.choices, want.choices)
    np.testing.assert_array_equal(got.text, want.text)


def test_statistics_match_a_loop_over_texts(tmp_path):
    trace = make_trace()
    path = tmp_path / "step10.statistics.safetensors"
    write_trace(path, statistics_of(trace))
    got = read_trace(path)
    assert isinstance(got, StatisticsTrace)
    for text in range(TEXTS):
        mine = trace.text == text
        logits = trace.logits[mine].astype(np.float64)
        centred = logits - logits.mean(-1, keepdims=True)
        odds = np.exp(logits)
        counts = [
            [(trace.choices[mine, layer] == e).sum() for e in range(EXPERTS)] for layer in (0, 1)
        ]
        close = {"rtol": 1e-5, "atol": 1e-5}  # float32 sums of a few terms
        s = got.statistics
        np.testing.assert_allclose(s.logit_sum[text], logits.sum(0), **close)
        np.testing.assert_allclose(s.centred_square_sum[text], (centred**2).sum(0), **close)
        probability = odds / odds.sum(-1, keepdims=True)
        np.testing.assert_allclose(s.probability_sum[text], probability.sum(0), **close)
        np.testing.assert_array_equal(s.dispatch_count[text], counts)
        assert float(s.token_count[text]) == mine.sum()


def test_choices_beyond_capacity_are_counted_apart():
    trace = make_trace()
    dispatched = (
        (np.arange(trace.choices.size) % 3 > 0).astype(np.uint8).reshape(trace.choices.shape)
    )
    got = statistics_of(dataclasses.replace(trace, dispatched=dispatched)).dispatched_count
    assert got is not None and got.sum() == dispatched.sum()
    served = (trace.choices == 4) & (dispatched == 1) & (trace.text == 2)[:, None, None]
    np.testing.assert_array_equal(got[2, :, 4], served.sum((0, 2)))
    assert statistics_of(trace).dispatched_count is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, ["version 2", "Upgrade"]),
        ({"format": "other"}, ["not an mfgjax trace"]),
        ({"kind": "movie"}, ["kind 'movie'"]),
        ({"top_k": 7}, ["top_k 7"]),
        ({"experts": "many"}, ["experts", "many"]),
        ({"layers": ["a"]}, ["shape", "(token, layer,"]),
        ({"layers": []}, ["no layers"]),
        ({"text": np.arange(3, dtype=np.int32)}, ["'text'", "shape"]),
        ({"choices": None}, ["'choices'", "missing"]),
    ],
)
def test_unsound_files_are_refused(token_file, change, words):
    rewrite(token_file, **change)
    with pytest.raises(TraceError) as caught:
        read_trace(token_file)
    for word in [token_file.name, *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_logits_name_their_place(token_file, bad):
    logits = load_file(token_file)["logits"]
    logits[3, 1, 2] = bad
    rewrite(token_file, logits=logits)
    with pytest.raises(TraceError, match=r"'logits'.*\(3, 1, 2\)"):
        read_trace(token_file)


def test_probabilities_are_not_logits(token_file):
    odds = np.exp(load_file(token_file)["logits"])
    rewrite(token_file, logits=odds / odds.sum(-1, keepdims=True))
    with pytest.raises(TraceError, match="probabilities"):
        read_trace(token_file)


def test_choices_and_texts_out_of_range(token_file):
    tensors = load_file(token_file)
    rewrite(token_file, choices=np.full_like(tensors["choices"], EXPERTS))
    with pytest.raises(TraceError, match="names expert 6 of 6"):
        read_trace(token_file)
    rewrite(token_file, choices=tensors["choices"], text=tensors["text"][::-1].copy())
    with pytest.raises(TraceError, match="non-decreasing"):
        read_trace(token_file)


@pytest.mark.parametrize("keep", [0, 4, 60, -10])
def test_truncated_files_are_refused(token_file, keep):
    token_file.write_bytes(token_file.read_bytes()[:keep])
    with pytest.raises(TraceError, match="truncated or not a safetensors"):
        read_trace(token_file)


def test_a_pickle_is_not_a_trace(tmp_path):
    path = tmp_path / "step1.tokens.safetensors"
    path.write_bytes(pickle.dumps({"logits": 1}))
    with pytest.raises(TraceError, match="not a safetensors"):
        read_trace(path)


def test_counts_that_do_not_add_up(tmp_path):
    path = tmp_path / "step10.statistics.safetensors"
    write_trace(path, statistics_of(make_trace()))
    counts = load_file(path)["dispatch_count"]
    counts[1, 0, 0] += 1
    rewrite(path, dispatch_count=counts)
    with pytest.raises(TraceError, match=r"'dispatch_count'.*text 1, layer 0"):
        read_trace(path)


def test_a_failed_write_leaves_the_old_file(token_file, monkeypatch):
    before = token_file.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_trace(token_file, make_trace(seed=1))
    assert token_file.read_bytes() == before
    assert [p.name for p in token_file.parent.iterdir()] == [token_file.name]


def test_a_sweep_is_ordered_by_step_and_prefers_statistics(tmp_path):
    for step in (100, 20, 3):
        write_trace(tmp_path / f"step{step}.tokens.safetensors", make_trace(step, seed=step))
    write_trace(tmp_path / "step20.statistics.safetensors", statistics_of(make_trace(20, seed=20)))
    sweep = read_sweep(tmp_path)
    assert sweep.labels == ["3", "20", "100"]
    assert sweep.statistics.logit_sum.shape == (3, TEXTS, LAYERS, EXPERTS)
    want = statistics_of(make_trace(20, seed=20)).statistics.logit_sum
    assert jnp.array_equal(sweep.statistics.logit_sum[1], want)


def test_a_sweep_of_two_models_is_refused(tmp_path):
    write_trace(tmp_path / "step1.tokens.safetensors", make_trace(1))
    other = make_trace(2)
    other = dataclasses.replace(other, metadata=dataclasses.replace(other.metadata, texts_hash="y"))
    write_trace(tmp_path / "step2.tokens.safetensors", other)
    with pytest.raises(TraceError, match=r"step2.*texts_hash.*folder of their own"):
        read_sweep(tmp_path)


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(TraceError, match="mfgjax-extract"):
        read_sweep(tmp_path)
    with pytest.raises(TraceError, match="no such folder"):
        read_sweep(tmp_path / "nowhere")
