"""Price, tokens and mean field side by side; what a row says where there is no slope to give."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import mfgjax
from mfgjax.cli.main import app
from mfgjax.price import estimate_price_slope
from mfgjax.price.run_price import PriceState, RunPrice, read_run_price
from mfgjax.report.figures import trajectory_figure
from mfgjax.report.price_rows import IMPOSED, NO_PRICE, price_rows, with_price
from mfgjax.report.sections import price as section
from mfgjax.simulate.drawn_tokens import drawn_trace
from mfgjax.trace import read_trace, write_trace
from mfgjax.trace.statistics import statistics_of

EXPERTS, TOP_K, TEXTS, TOKENS = 16, 4, 12, 100  # as in `sweep_folder`, whose programs serve
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
    choices = np.argsort(-(logits + bias), axis=-1)[..., :TOP_K]
    stored = np.broadcast_to(bias, (2, EXPERTS)).copy()
    names = {"revision": f"step{step}", "step": step, "layers": ("a", "b")}
    return drawn_trace(logits, choices, TEXTS, stored, score="logits", **names)


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
def dataset(folder):
    return mfgjax.track(folder, resamples=0)


@pytest.fixture(scope="module")
def rows(folder, dataset):
    return price_rows(folder, dataset)


def test_track_holds_the_slope_of_every_trace(folder, dataset):
    for place, step in enumerate((0, 10, 20)):
        own = estimate_price_slope(read_trace(folder / f"step{step}.statistics.safetensors"))
        np.testing.assert_array_equal(dataset.price_slope[place], own.congestion)
        np.testing.assert_array_equal(dataset.price_slope_interval[place], own.interval)
    low, high = dataset.price_slope_interval[2].values.T
    np.testing.assert_allclose(dataset.mean_price_slope[2], dataset.price_slope[2].mean())
    np.testing.assert_allclose(dataset.mean_price_slope_interval[2], [low.mean(), high.mean()])
    assert low.mean() <= LEAKY <= high.mean()
    states = [PriceState.NO_PRICE, PriceState.IMPOSED, PriceState.LINE]
    np.testing.assert_array_equal(dataset.price_state, np.repeat(states, 2).reshape(3, 2))


def test_a_layer_without_a_slope_leaves_no_average_over_the_others(folder, dataset):
    price = read_run_price(folder)
    price.congestion[2, 1] = np.nan
    found = with_price(dataset, price)
    assert (
        np.isnan(found.mean_price_slope[2]) and np.isnan(found.mean_price_slope_interval[2]).all()
    )
    assert np.isfinite(found.mean_price_slope[0])
    price.congestion[:, 1] = np.nan  # no rule there at any checkpoint
    found = with_price(dataset, price)
    np.testing.assert_array_equal(found.mean_price_slope, price.congestion[:, 0])


def test_fewer_than_three_texts_have_no_slope(folder, dataset):
    assert read_run_price(folder, documents=["a", "b"] * (TEXTS // 2)) is None
    found = with_price(dataset, None)
    assert np.isnan(found.price_slope).all() and (found.price_state == PriceState.NOT_READ).all()


def test_phases_of_the_price_are_of_its_average_and_its_interval(dataset):
    steps = np.arange(9.0)
    mean = np.array([0, 0, 0, 5, 10, 20, 20, 20, 20.0])
    ends = np.stack([mean - 0.5, mean + 0.5], -1)
    ends[4] = -np.inf, np.inf  # an even load: the others' median stands in
    layers = np.repeat(mean[:, None], 2, axis=1)
    state = np.full((9, 2), int(PriceState.LINE))
    price = RunPrice(layers, np.stack([ends, ends], 1), layers, layers, state)
    run = dataset[["mean_signed"]].isel(checkpoint=[0] * 9, drop=True)
    run = run.assign_coords(checkpoint=steps, step=("checkpoint", steps))
    run["layer"] = dataset.layer
    run.attrs = dataset.attrs
    found = with_price(run, price)
    want = ["dormant"] * 3 + ["surge"] * 2 + ["stabilization"] * 4
    assert found.price_phase.values.tolist() == want
    assert "price_phase" not in with_price(run.assign_attrs(in_order=0), price)
    state[:] = PriceState.NO_PRICE
    assert "price_phase" not in with_price(run, price)


def test_figure_draws_the_price_the_mean_field_and_the_truth(dataset):
    figure = trajectory_figure(dataset.assign(truth=("checkpoint", [0.0, 5.0, LEAKY])))
    panel = figure.axes[0]
    drawn = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    np.testing.assert_array_equal(drawn["set by hand"].get_ydata(), [0, 5, LEAKY])
    slope = drawn["slope of the price (thin: layers)"].get_ydata()
    np.testing.assert_array_equal(slope, dataset.mean_price_slope)
    field = drawn["mean field, signed (null included)"].get_ydata()
    np.testing.assert_array_equal(field, dataset.mean_signed)
    low, high = panel.get_ylim()  # an interval without end does not decide the axis
    estimates = np.concatenate([slope, field, dataset.price_slope.values.ravel(), [LEAKY]])
    estimates = estimates[np.isfinite(estimates)]
    assert low <= estimates.min() and estimates.max() <= high
    assert high - low < 2 * (max(estimates.max(), 1) - min(estimates.min(), 0))
    for other in figure.axes[1:3]:
        assert "set by hand" in other.get_legend_handles_labels()[1]
    assert len(trajectory_figure(with_price(dataset, None)).axes) == 3
    nowhere = dataset.assign(price_state=dataset.price_state * 0 + PriceState.NO_PRICE)
    assert len(trajectory_figure(nowhere).axes) == 3


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
