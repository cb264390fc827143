"""`mfgjax.compare`: known differences are found, none are invented, and the intervals are scipy's."""

import dataclasses
import io
import itertools
import json

import numpy as np
import pytest
import scipy.special
import scipy.stats
from rich.console import Console
from typer.testing import CliRunner

import mfgjax
from mfgjax.cli.main import app
from mfgjax.metrics.token_shift import teacher_agreement, token_shift
from mfgjax.report.compare_table import compare_remarks, compare_table
from mfgjax.simulate.sweep import SimulatedRun, simulate_sweep
from mfgjax.trace import TokenTrace, TraceError, read_trace, write_trace

LAYERS, EXPERTS, TEXTS = 10, 8, 40
PER_LAYER = 0.95
SETTINGS = {"confidence": 1 - LAYERS * (1 - PER_LAYER), "resamples": 200}
"""Level 0.95 for each layer, so that the layers count coverage."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three checkpoints: the second samples what the first does, the third has more congestion."""
    folder = tmp_path_factory.mktemp("run")
    settings = SimulatedRun(
        congestion=(4, 4, 14),
        steps=(0, 1, 2),
        layers=LAYERS,
        experts=EXPERTS,
        top_k=2,
        texts=TEXTS,
        tokens=100,
        load_spread=0.3,
        seed=1,
    )
    truth = simulate_sweep(folder, settings)["checkpoints"]
    return [folder / found["trace"] for found in truth], truth


@pytest.fixture(scope="module")
def same(run):
    return mfgjax.compare(run[0][0], run[0][1], **SETTINGS)


def rows(frame, quantity):
    return frame[frame.quantity == quantity]


def pseudo_values(path):
    """Of the normalized entropy, by leaving texts out in a loop."""
    counts = np.asarray(read_trace(path).statistics.dispatch_count, float)

    def entropy(total):
        return scipy.stats.entropy(total, axis=-1) / np.log(EXPERTS)

    whole = entropy(counts.sum(0))
    without = np.stack([entropy(counts.sum(0) - one) for one in counts])
    return len(counts) * whole - (len(counts) - 1) * without


def test_equal_checkpoints_differ_as_often_as_said(same):
    for quantity in ("load", "signed", "congestion", "entropy", "quality_spread"):
        alarms = int(rows(same, quantity).differs.sum())
        assert alarms <= 3, quantity  # of 10 at 0.05 each: more has probability 0.001


def test_more_congestion_of_the_same_load_is_found(run):
    paths, truth = run
    found = mfgjax.compare(paths[0], paths[2], **SETTINGS)
    spread = [np.ptp(np.array(checkpoint["quality"]), axis=-1) for checkpoint in truth]
    for quantity, want in (
        ("signed", np.full(LAYERS, 10.0)),
        ("congestion", np.full(LAYERS, 10.0)),
        ("quality_spread", spread[2] - spread[0]),
        ("entropy", np.zeros(LAYERS)),
    ):
        part = rows(found, quantity)
        held = (part.low.to_numpy() <= want) & (want <= part.high.to_numpy())
        assert held.sum() >= LAYERS - 3, quantity
    assert rows(found, "signed").differs.all()
    assert rows(found, "load").differs.sum() <= 3
    assert (found.differs | (found.low <= 0) | (found.quantity == "load")).all()


def test_paired_intervals_are_those_of_a_paired_t_test(run, same):
    first, second = (pseudo_values(path) for path in run[0][:2])
    want = scipy.stats.ttest_rel(second, first).confidence_interval(PER_LAYER)
    part = rows(same, "entropy")
    assert same.attrs["paired"]
    np.testing.assert_allclose(part.low, want.low, atol=1e-9)
    np.testing.assert_allclose(part.high, want.high, atol=1e-9)


def test_different_texts_are_compared_by_welch(run, tmp_path):
    paths, _ = run
    trace = read_trace(paths[1])
    metadata = dataclasses.replace(trace.metadata, texts_hash="others")
    write_trace(
        tmp_path / "b.statistics.safetensors", dataclasses.replace(trace, metadata=metadata)
    )
    found = mfgjax.compare(paths[0], tmp_path, **SETTINGS)
    assert not found.attrs["paired"]
    first, second = (pseudo_values(path) for path in paths[:2])
    test = scipy.stats.ttest_ind(second, first, equal_var=False)
    want = test.confidence_interval(PER_LAYER)
    part = rows(found, "entropy")
    np.testing.assert_allclose(part.low, want.low, atol=1e-9)
    np.testing.assert_allclose(part.high, want.high, atol=1e-9)
    assert rows(found, "load").differs.sum() <= 3


def first_texts(path, out, keep):
    """The trace without what is in later texts, which are then empty."""
    trace = read_trace(path)
    kept = np.arange(TEXTS) < keep
    sums = {
        name: np.asarray(value) * kept.reshape(-1, *[1] * (value.ndim - 1)).astype(value.dtype)
        for name, value in vars(trace.statistics).items()
    }
    statistics = type(trace.statistics)(**sums)
    write_trace(out, dataclasses.replace(trace, statistics=statistics))
    return np.asarray(statistics.dispatch_count, float)[:keep]


def test_chance_is_every_swap_within_texts(run, tmp_path):
    names = [tmp_path / f"{side}.statistics.safetensors" for side in "ab"]
    counts = [first_texts(path, name, 6) for path, name in zip(run[0][:2], names, strict=True)]
    found = rows(mfgjax.compare(*names, **SETTINGS), "load")
    distances = []
    for swap in itertools.product([0, 1], repeat=6):
        sides = [sum(counts[side ^ one][text] for text, one in enumerate(swap)) for side in (0, 1)]
        shares = [side / side.sum(-1, keepdims=True) for side in sides]
        distances.append(np.abs(shares[0] - shares[1]).sum(-1) / 2)
    np.testing.assert_allclose(found.difference, distances[0], rtol=1e-6)
    # 200 draws of 32 distances (a swap and its opposite are one), each 0.031 of them.
    ranks = (np.array(distances) <= found.high.to_numpy()[None] + 1e-9).mean(0)
    np.testing.assert_allclose(ranks, PER_LAYER, atol=0.1)


def test_experts_of_another_model_are_matched_by_load(run, tmp_path):
    trace = read_trace(run[0][0])
    order = np.random.default_rng(0).permutation(EXPERTS)
    sums = {
        name: value if value.ndim == 1 else np.asarray(value)[..., order]
        for name, value in vars(trace.statistics).items()
    }
    metadata = dataclasses.replace(trace.metadata, model="relabelled")
    path = tmp_path / "a.statistics.safetensors"
    statistics = type(trace.statistics)(**sums)
    write_trace(path, dataclasses.replace(trace, metadata=metadata, statistics=statistics))
    found = mfgjax.compare(run[0][0], path, **SETTINGS)
    assert found.attrs["ranked"] and not found.differs.any()
    assert "beyond_scale" not in set(found.quantity)
    told = mfgjax.compare(run[0][0], path, **SETTINGS, same_experts=True)
    assert not told.attrs["ranked"] and rows(told, "load").differs.all()
    np.testing.assert_allclose(rows(found, "load").difference, 0, atol=1e-12)
    assert "matched by load" in " ".join(compare_remarks(found))


def test_a_change_of_temperature_is_no_change_beyond_scale(run, tmp_path):
    """Logits times 1.3 at the same choices: gamma moves, and all of it is the scale's."""
    trace = read_trace(run[0][0])
    hot = dataclasses.replace(
        trace.statistics,
        logit_sum=np.asarray(trace.statistics.logit_sum) * np.float32(1.3),
        centred_square_sum=np.asarray(trace.statistics.centred_square_sum) * np.float32(1.69),
    )
    path = tmp_path / "hot.statistics.safetensors"
    write_trace(path, dataclasses.replace(trace, statistics=hot))
    found = mfgjax.compare(run[0][0], path, **SETTINGS)
    assert rows(found, "signed").differs.all()
    left = rows(found, "beyond_scale")
    assert not left.differs.any()
    np.testing.assert_allclose(left.difference, 0, atol=1e-3)
    np.testing.assert_allclose(left.second, rows(found, "signed").second, atol=1.0)


@pytest.fixture(scope="module")
def token_pair(run, tmp_path_factory):
    """Two routers on the same tokens: logits that differ by noise, top-2 choices, in files."""
    folder = tmp_path_factory.mktemp("tokens")
    metadata = read_trace(run[0][0]).metadata
    rng = np.random.default_rng(0)
    text = np.repeat(np.arange(TEXTS), 6)
    first = rng.normal(size=(len(text), LAYERS, EXPERTS)).astype(np.float32)
    pair = []
    for name, logits in (
        ("step0-teacher", first),
        ("student", first + rng.normal(size=first.shape).astype(np.float32)),
    ):
        made = dataclasses.replace(metadata, kind="tokens", revision=name, top_k=2)
        choices = np.argsort(-logits, axis=-1)[..., :2].astype(np.uint8)
        pair.append(TokenTrace(made, logits, choices, text.astype(np.int32)))
        write_trace(folder / f"{name}.tokens.safetensors", pair[-1])
    return folder, pair


def test_token_agreement_and_gate_divergence(token_pair):
    folder, (first, second) = token_pair
    paths = [folder / f"{trace.metadata.revision}.tokens.safetensors" for trace in (first, second)]
    found = mfgjax.compare(*paths, **SETTINGS)
    share, far = np.zeros((2, TEXTS, LAYERS))
    for token, text in enumerate(first.text):
        for layer in range(LAYERS):
            both = set(first.choices[token, layer]) & set(second.choices[token, layer])
            share[text, layer] += len(both) / 2 / 6
            p, q = (scipy.special.softmax(t.logits[token, layer]) for t in (first, second))
            far[text, layer] += scipy.stats.entropy(p, q) / 6
    for name, want in (("agreement", share), ("router_kl", far)):
        part = rows(found, name)
        np.testing.assert_allclose(part.difference, want.mean(0), rtol=1e-5)
        ends = scipy.stats.ttest_1samp(want, 0).confidence_interval(PER_LAYER)
        np.testing.assert_allclose(part.low, ends.low, rtol=1e-4)
        np.testing.assert_allclose(
            part.high, np.minimum(ends.high, 1 if name == "agreement" else 9)
        )
        assert part.differs.all()
    by_layer = teacher_agreement(folder)
    np.testing.assert_allclose(by_layer.pop("student"), share.mean(0))
    assert not by_layer and teacher_agreement(folder.parent) == {}
    own = mfgjax.compare(paths[0], paths[0], **SETTINGS)
    assert not own.differs.any() and (rows(own, "agreement").difference == 1).all()
    assert "top-K shared differs" in " ".join(compare_remarks(found))
    fewer = dataclasses.replace(second, logits=second.logits[:, :3])
    with pytest.raises(TraceError, match="hold other tokens"):
        token_shift(first, fewer)


def test_what_cannot_be_compared_is_told(run, sweep_folder):
    with pytest.raises(TraceError, match="2 layers, but 10 in"):
        mfgjax.compare(run[0][0], sweep_folder)
    with pytest.raises(ValueError, match="resamples is 0"):
        mfgjax.compare(run[0][0], run[0][1], resamples=0)
    with pytest.raises(ValueError, match="confidence is 1"):
        mfgjax.compare(run[0][0], run[0][1], confidence=1)


def test_the_table_fits_80_columns(same):
    console = Console(width=80, file=io.StringIO())
    table = compare_table(same)
    console.print(table)
    shown = console.file.getvalue()
    assert len(table.columns) <= 8
    assert all(len(line.rstrip()) <= 80 for line in shown.splitlines())
    assert "[" in shown and "…" not in shown and "chance: to" in shown


def test_command(run, tmp_path):
    words = ["compare", *map(str, run[0][:2]), "--resamples", "200", "--level", "0.5"]
    shown = CliRunner().invoke(app, [*words, "--out", str(tmp_path), "--json"])
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)
    assert len(told["rows"]) == 6 * LAYERS and told["about"]["paired"]
    assert told["rows"][0]["first"] is None  # a distance is of both
    assert (tmp_path / "figures" / "compare.png").stat().st_size > 10_000
    assert "wrote 6 files" in shown.stderr
    refused = CliRunner().invoke(app, ["compare", str(run[0][0]), "nowhere"])
    assert refused.exit_code == 2 and "nowhere: no such folder" in refused.stderr
