"""The bundled runs are what their provenance says: complete, sound, small, and honestly described."""

import json

import numpy as np
import pytest

import mfgjax
from mfgjax.bundled import bundled_runs
from mfgjax.estimate.null.dispersion import normal_hazard
from mfgjax.trace import TokenTrace, read_sweep, read_trace, statistics_of

RUNS = bundled_runs()
LIMIT = 16_000_000  # bytes, all runs together


@pytest.fixture(scope="module", params=RUNS)
def run(request):
    return RUNS[request.param].traces


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
    assert settings["steps"] >= 15_000
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


def test_loss_falls_and_dispersion_passes_the_hazard(run, provenance):
    curve = provenance["loss_curve"]
    assert curve[-1]["held_out_loss"] < 0.5 * curve[0]["held_out_loss"]
    dataset = mfgjax.track(run, resamples=0)
    hazard = float(normal_hazard(dataset.top_k, dataset.experts))
    assert float(dataset.mean_dispersion.max()) > hazard


def test_what_the_provenance_says_it_shows_is_what_it_shows(run, provenance):
    dataset = mfgjax.track(run, resamples=0)
    said = provenance["shows"][0]
    assert f"at most {float(dataset.mean_congestion.max()):.1f}" in said
    assert f"{float(dataset.mean_congestion[-1]):.1f} at the end" in said
    boundary = int(dataset.at_boundary.sum())
    assert any(f"{boundary} of {dataset.congestion.size}" in line for line in provenance["shows"])
