"""Traces survive a round trip, and damaged ones are refused with file, tensor and remedy."""

import dataclasses
import pickle

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mfgjax.trace import TraceError, read_trace, write_trace
from mfgjax.trace.schema import StatisticsTrace
from mfgjax.trace.statistics import statistics_of
from mfgjax.trace.storage import read_metadata
from tests.trace.small_trace import EXPERTS, TEXTS, make_trace, rewrite


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "step10.tokens.safetensors"
    write_trace(path, make_trace())
    return path


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
        ({"layers": 5}, ["layers is 5"]),
        ({"layers": ["a", 3]}, ["layers", "printable names"]),
        ({"layers": ["a", "a"]}, ["a layer twice"]),
        ({"layers": None}, ["layers is None"]),
        ({"step": True}, ["step is True"]),
        ({"step": 2**63}, ["step is 92233", "count or null"]),
        ({"step": 10.5}, ["step is 10.5"]),
        ({"model": ["tiny"]}, ["model is ['tiny']", "printable text"]),
        ({"revision": "\x1b[2J"}, ["revision is '\\x1b[2J'", "printable text"]),
        ({"tokenizer_hash": 3}, ["tokenizer_hash is 3"]),
        ({"aux_loss_coef": "0.01"}, ["aux_loss_coef is '0.01'", "finite number"]),
        ({"aux_loss_coef": float("nan")}, ["aux_loss_coef is nan"]),
        ({"aux_loss_coef": 10**400}, ["aux_loss_coef is 1000"]),
        ({"versions": "1.0"}, ["versions is '1.0'"]),
        ({"routing": []}, ["routing is []"]),
        ({"kind": ["tokens"]}, ["kind ['tokens']"]),
        ({"text_count": 2**40}, ["text_count is 1099511627776"]),
        ({"text": np.arange(3, dtype=np.int32)}, ["'text'", "shape"]),
        ({"choices": None}, ["'choices'", "missing"]),
        ({"selection_bias": np.zeros((1, 2), np.float32)}, ["'selection_bias'", "(layer, expert)"]),
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


def test_a_token_takes_different_experts(token_file, monkeypatch):
    monkeypatch.setattr("mfgjax.trace.validate._BLOCK", 8)  # several blocks
    choices = load_file(token_file)["choices"]
    choices[7, 1] = 4
    rewrite(token_file, choices=choices)
    with pytest.raises(TraceError, match=r"expert 4 twice for token 7, layer 1"):
        read_trace(token_file)


def test_dispatched_is_yes_or_no(token_file):
    choices = load_file(token_file)["choices"]
    dispatched = np.ones_like(choices)
    metadata = {"mfgjax_trace": read_metadata(token_file).to_json()}
    save_file(load_file(token_file) | {"dispatched": dispatched}, token_file, metadata)
    assert read_trace(token_file).dispatched.all()
    dispatched[5, 0, 1] = 2
    rewrite(token_file, dispatched=dispatched)
    with pytest.raises(TraceError, match=r"'dispatched' holds 2 at \(5, 0, 1\)"):
        read_trace(token_file)


def test_negative_choices_are_named(token_file):
    choices = load_file(token_file)["choices"].astype(np.int32)
    choices[2, 1, 0] = -3
    rewrite(token_file, choices=choices)
    with pytest.raises(TraceError, match="names expert -3 of 6"):
        read_trace(token_file)


def sums_with(change):
    """`make_trace`'s sums with an entry `{name: (index, added)}` moved, and capacity counts."""
    trace = make_trace()
    served = dataclasses.replace(trace, dispatched=np.ones(trace.choices.shape, np.uint8))
    sums = statistics_of(served)
    tensors = {name: np.array(value) for name, value in vars(sums.statistics).items()}
    tensors["dispatched_count"] = sums.dispatched_count
    for name, (index, added) in change.items():
        tensors[name][index] += added
    capacity = tensors.pop("dispatched_count")
    return StatisticsTrace(sums.metadata, type(sums.statistics)(**tensors), None, capacity)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token_count": (0, -99)}, "'token_count'"),
        ({"token_count": (0, np.nan)}, "'token_count' holds what is no count"),
        ({"token_count": (0, 2.0**40)}, "'token_count' holds what is no count"),
        ({"dispatch_count": ((1, 0, 2), -99)}, r"'dispatch_count' has negative .* \(1, 0, 2\)"),
        ({"centred_square_sum": ((1, 0, 2), -99)}, "'centred_square_sum' has negative"),
        ({"dispatched_count": ((1, 0, 2), -99)}, "'dispatched_count' has negative"),
        ({"dispatched_count": ((1, 0, 2), 1)}, "'dispatched_count'.*more than tokens chose it"),
    ],
)
def test_sums_that_cannot_be(tmp_path, change, words):
    write_trace(tmp_path / "sound.statistics.safetensors", sums_with({}))
    with pytest.raises(TraceError, match=words):
        write_trace(tmp_path / "unsound.statistics.safetensors", sums_with(change))


def test_an_expert_is_chosen_at_most_once_per_token(tmp_path):
    sums = sums_with({})
    counts = np.array(sums.statistics.dispatch_count)
    tokens = int(sums.statistics.token_count[1])
    counts[1, 0] = [tokens + 1, tokens - 1, 0, 0, 0, 0]  # still top_k choices per token in all
    broken = dataclasses.replace(sums.statistics, dispatch_count=counts)
    match = rf"has {tokens + 1} for text 1, layer 0, expert 0, more than the text has tokens \({tokens}\)"
    with pytest.raises(TraceError, match=match):
        write_trace(tmp_path / "t", dataclasses.replace(sums, statistics=broken))


def test_a_text_without_tokens_has_no_sums(tmp_path):
    trace = make_trace()
    trace = dataclasses.replace(trace, metadata=dataclasses.replace(trace.metadata, text_count=6))
    sums = statistics_of(trace)
    write_trace(tmp_path / "t", sums)
    logits = np.array(sums.statistics.logit_sum)
    logits[5, 0, 0] = 3
    broken = dataclasses.replace(sums.statistics, logit_sum=logits)
    with pytest.raises(TraceError, match="'logit_sum' has sums for a text without tokens"):
        write_trace(tmp_path / "t", dataclasses.replace(sums, statistics=broken))


@pytest.mark.parametrize("metadata", ["[" * 100_000, '{"a": ' * 100_000, '"\\ud800', "1" * 10**5])
def test_metadata_that_is_not_json_names_the_file(token_file, metadata):
    save_file(load_file(token_file), token_file, {"mfgjax_trace": metadata})
    with pytest.raises(TraceError, match=r"step10\.tokens\.safetensors: (metadata is )?not"):
        read_trace(token_file)


def test_a_message_stays_short_and_keeps_its_remedy(token_file):
    rewrite(token_file, aux_loss_coef="x" * 5_000_000)
    with pytest.raises(TraceError) as caught:
        read_trace(token_file)
    told = str(caught.value)
    assert len(told) < 1100
    assert str(token_file) in told and told.endswith("expected. Extract it again.")


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


def test_a_trace_may_be_read_by_whom_any_file_may(token_file):
    other = token_file.with_name("other")
    other.touch()
    assert token_file.stat().st_mode == other.stat().st_mode
