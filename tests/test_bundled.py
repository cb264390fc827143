"""The bundled runs are what their provenance says: complete, sound, small, and honestly described."""

import json

import numpy as np
import pytest

import mfgjax
from mfgjax.bundled import bundled_runs
from mfgjax.estimate.null.dispersion import normal_hazard
from mfgjax.price import estimate_price_slope, reveal_price, token_congestion_interval
from mfgjax.trace import TokenTrace, read_sweep, read_trace
from mfgjax.trace.statistics import statistics_of

RUNS = bundled_runs()
LIMIT = 16_000_000  # bytes, all runs together


@pytest.fixture(scope="module", params=RUNS)
def run(request):
    return RUNS[request.param].traces


@pytest.fixture(scope="module")
def dataset(run):
    return mfgjax.track(run, resamples=0)


@pytest.fixture(scope="module")
def provenance(run):
    return json.loads((run / "provenance.json").read_text())


def test_all_runs_are_small():
    assert sum(p.stat().st_size for run in RUNS.values() for p in run.traces.iterdir()) < LIMIT


def test_the_sweep_is_the_run_of_the_provenance(run, provenance):
    sweep = read_sweep(run)
    settings = provenance["training"]["settings"]
    assert [sweep.checkpoints[0].step, sweep.checkpoints[-1].step] == [0, settings["steps"]]
    assert len(sweep.checkpoints) == settings["checkpoints"]
    assert len(sweep.checkpoints[0].layers) == settings["layers"] >= 4
    assert settings["steps"] >= 6_000
    for metadata in sweep.checkpoints:
        assert metadata.tokens_seen == metadata.step * settings["batch_size"] * settings["length"]
        assert (metadata.experts, metadata.top_k) == (settings["experts"], settings["top_k"])
        assert metadata.aux_loss_coef == pytest.approx(settings["alpha"])


def test_token_logits_give_the_stored_statistics(run, provenance):
    files = sorted(run.glob("*.tokens.safetensors"))
    assert len(files) == len(provenance["token_logits"]) == 3
    for path in files:
        tokens = read_trace(path)
        stored = read_trace(path.with_name(path.name.replace(".tokens.", ".statistics.")))
        assert isinstance(tokens, TokenTrace)
        again = statistics_of(tokens).statistics
        np.testing.assert_array_equal(again.dispatch_count, stored.statistics.dispatch_count)
        # float16 token logits against sums of the float32 ones
        np.testing.assert_allclose(
            again.logit_sum, stored.statistics.logit_sum, rtol=0.01, atol=0.2
        )


def test_loss_falls_and_dispersion_passes_the_hazard(dataset, provenance):
    curve = provenance["loss_curve"]
    assert curve[-1]["held_out_loss"] < 0.5 * curve[0]["held_out_loss"]
    hazard = float(normal_hazard(dataset.top_k, dataset.experts))
    assert float(dataset.mean_dispersion.max()) > hazard


def test_what_the_provenance_says_it_shows_is_what_it_shows(dataset, provenance):
    said = provenance["shows"][0]
    assert f"at most {float(dataset.mean_congestion.max()):.1f}" in said
    assert f"{float(dataset.mean_congestion[-1]):.1f} at the end" in said
    boundary = int(dataset.at_boundary.sum())
    assert any(f"{boundary} of {dataset.congestion.size}" in line for line in provenance["shows"])


@pytest.fixture(scope="module")
def priced():
    """The run whose congestion was set by hand: its statistics, price slopes and truth, in step order."""
    ((_, run),) = [item for item in RUNS.items() if item[1].truth is not None]
    paths = sorted(run.traces.glob("*.statistics.safetensors"), key=lambda p: step_of(p))
    traces = [read_trace(path) for path in paths]
    revealed = [reveal_price(trace) for trace in traces]
    slopes = [
        estimate_price_slope(trace, revealed=price)
        for trace, price in zip(traces, revealed, strict=True)
    ]
    truth = np.asarray([run.truth[step_of(path)] for path in paths])
    return run, traces, revealed, slopes, truth


def step_of(path):
    return int(path.name.removeprefix("step").split("-")[0])


def test_the_truth_goes_through_all_four_phases(priced):
    *_, truth = priced
    peak = truth.max()
    assert (truth == 0).sum() >= 3 and (truth[:3] == 0).all()
    assert (truth == peak).sum() >= 3
    first, last = np.flatnonzero(truth == peak)[[0, -1]]
    assert ((truth[:first] > 0).sum() >= 3) and len(truth) - 1 - last >= 3
    assert (np.diff(truth[last:]) < 0).all()


def test_choices_reveal_the_price_that_was_in_force(priced):
    """Every bound holds for the bias that the router stores: in every layer of every checkpoint."""
    _, traces, revealed, *_ = priced
    for trace, price in zip(traces, revealed, strict=True):
        assert not price.conflict.any() and price.seen.all()
        bias = trace.selection_bias.astype(float)
        difference = bias[:, :, None] - bias[:, None, :]
        assert (difference >= price.difference_low).all()
        assert (difference <= price.difference_high).all()
        assert np.nanmax(price.half_width) < 0.2


def test_the_price_in_force_comes_back(priced):
    """From held-out texts, within a 95% interval, at 90% of layers and checkpoints or more.

    In force is the slope of the stored price on other training text. The congestion that was set is
    less well met, because the price lags behind a load that is not at rest: see docs/bundled-runs.md.
    """
    run, _, _, slopes, truth = priced
    rows = json.loads((run.traces / "provenance.json").read_text())["truth"]
    in_force = np.asarray([row["in_force"] for row in rows])
    found = np.stack([slope.congestion for slope in slopes])
    low, high = np.stack([slope.interval for slope in slopes]).transpose(2, 0, 1)
    assert np.isfinite(low).all() and np.isfinite(high).all()
    assert ((low <= in_force) & (in_force <= high)).mean() >= 0.9
    narrow = (high - low)[truth > 0] / in_force[truth > 0]
    assert np.median(narrow) < 0.3  # or holding the truth would be no feat
    set_by_hand = np.broadcast_to(truth[:, None], found.shape)[truth > 0]
    assert np.abs(np.median(found[truth > 0] / set_by_hand) - 1) < 0.1


def test_the_phases_that_were_set_come_back(dataset, provenance):
    """Phases of the price, as `track` claims them, against the schedule that the training was given."""
    schedule = provenance["training"]["settings"].get("gamma_schedule")
    if schedule is None:
        assert "price_phase" not in dataset  # no price acts at the choice
        return
    at, gamma = np.array([pair.split(":") for pair in schedule.split(",")], float).T
    ends = (
        np.searchsorted(at, dataset.step.values).clip(1) - 1
    )  # a corner belongs to what led to it
    rises = np.sign(np.diff(gamma))[ends.clip(max=len(gamma) - 2)]
    shape = {1: "surge", 0: "stabilization", -1: "relaxation"}
    want = ["dormant" if dataset.step[i] <= at[1] else shape[int(r)] for i, r in enumerate(rises)]
    got = dataset.price_phase.values.tolist()
    assert list(dict.fromkeys(want)) == ["dormant", "surge", "stabilization", "relaxation"]
    assert list(dict.fromkeys(got)) == list(dict.fromkeys(want))  # all four, in order, once each
    assert sum(a != b for a, b in zip(got, want, strict=True)) <= 2
    assert (dataset.price_phase_probability > 0.5).mean() > 0.8


def test_tokens_give_back_the_price_in_force(priced):
    """gamma_token of the three checkpoints with token logits."""
    run, *_ = priced
    rows = json.loads((run.traces / "provenance.json").read_text())["truth"]
    in_force = {row["step"]: np.asarray(row["in_force"]) for row in rows}
    held = []
    for path in sorted(run.traces.glob("*.tokens.safetensors")):
        low, high = token_congestion_interval(read_trace(path)).interval.T
        truth = in_force[step_of(path)]
        # No price at all is found to within its rounding, not exactly.
        held += list((low <= truth + 1e-3) & (truth - 1e-3 <= high))
    assert np.mean(held) >= 0.9
