"""Price, tokens and mean field side by side; what a row says where there is no slope to give."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import mfgjax
from mfgjax.cli.main import app
from mfgjax.report.price_rows import IMPOSED, NO_PRICE, price_rows
from mfgjax.report.sections import price as section
from mfgjax.trace import TokenTrace, TraceMetadata, statistics_of, write_trace

EXPERTS, TOP_K, TEXTS, TOKENS = 8, 2, 6, 150
LEAKY, EVEN, NONE = 10.0, "even", None


def make(step, kind):
    """Two layers: a leaky price, a price that evens the load out, or no price."""
    rng = np.random.default_rng(step)
    text = np.repeat(np.arange(TEXTS, dtype=np.int32), TOKENS)
    quality = np.linspace(-0.5, 0.5, EXPERTS)
    logits = (quality + rng.normal(size=(len(text), 2, EXPERTS))).astype(np.float32)
    bias = np.zeros(EXPERTS)
    for _ in range(300 if kind else 0):
        taken = np.argpartition(-(logits + bias), TOP_K, axis=-1)[..., :TOP_K]
        load = np.bincount(taken.ravel(), minlength=EXPERTS) / taken.size
        if kind == EVEN:
            bias += 0.5 * (1 / EXPERTS - load)
        else:
            bias += 0.1 * (-kind * (load - 1 / EXPERTS) - bias)
    choices = np.argsort(-(logits + bias), axis=-1)[..., :TOP_K].astype(np.uint8)
    metadata = TraceMetadata(
        kind="tokens",
        model="simulated",
        revision=f"step{step}",
        step=step,
        experts=EXPERTS,
        top_k=TOP_K,
        layers=("a", "b"),
        texts_hash="x",
        text_count=TEXTS,
        routing={
            "selection_score": ["logits"] * 2,
            "selection_unit": [2.0**-24] * 2,
            "selection_groups": [None] * 2,
            "logit_dtype_in_model": "float32",
        },
    )
    stored = np.broadcast_to(bias.astype(np.float32), (2, EXPERTS)).copy()
    return TokenTrace(metadata, logits, choices, text, stored)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """No price, an even load, and a leaky price whose tokens are there too."""
    out = tmp_path_factory.mktemp("priced")
    for step, kind in ((0, NONE), (10, EVEN), (20, LEAKY)):
        trace = make(step, kind)
        write_trace(
            out / f"step{step}.statistics.safetensors", statistics_of(trace, choice_blocks=2)
        )
    write_trace(out / "step20.tokens.safetensors", trace)
    return out


@pytest.fixture(scope="module")
def rows(folder):
    return price_rows(folder, mfgjax.track(folder, resamples=0))


def test_three_numbers_side_by_side(rows):
    assert list(rows.checkpoint) == ["0", "0", "10", "10", "20", "20"]
    leaky = rows[rows.checkpoint == "20"]
    assert ((leaky.price_slope_low <= LEAKY) & (leaky.price_slope_high >= LEAKY)).all()
    assert (abs(leaky.token_congestion - LEAKY) < 0.2 * LEAKY).all()
    assert np.isfinite(leaky.mean_field).all() and (leaky.explained > 0.9).all()
    assert rows.token_congestion[:4].isna().all()  # no tokens there


def test_notes_say_where_there_is_no_slope(rows):
    assert set(rows.note[rows.checkpoint == "0"]) == {NO_PRICE}
    assert set(rows.note[rows.checkpoint == "10"]) == {IMPOSED}
    assert set(rows.note[rows.checkpoint == "20"]) == {""}


def test_track_shows_and_writes_them(folder, tmp_path):
    result = CliRunner().invoke(
        app, ["track", str(folder), "--resamples", "0", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    assert "price slope" in result.output and "last checkpoint" in result.output
    written = pd.read_csv(tmp_path / "price.csv")
    assert len(written) == 6 and set(written.columns) >= set(section.SHOWN)


def test_traces_without_bounds_have_no_rows(sweep_folder):
    assert price_rows(sweep_folder, mfgjax.track(sweep_folder, resamples=0)) is None


def test_an_unknown_rule_has_no_rows(tmp_path):
    trace = make(0, NONE)
    routing = trace.metadata.routing | {"selection_score": ["unknown"] * 2}
    unknown = dataclasses.replace(
        trace, metadata=dataclasses.replace(trace.metadata, routing=routing)
    )
    write_trace(tmp_path / "step0.tokens.safetensors", unknown)
    assert price_rows(tmp_path, mfgjax.track(tmp_path, resamples=0)) is None
