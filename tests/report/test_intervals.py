"""Intervals of a trajectory: the default allows for noise, every other does what its name says."""

import jax
import numpy as np
import pytest
from scipy import stats

import mfgjax
from mfgjax.dynamics.intervals import INTERVALS, average_interval, congestion_of_layers
from mfgjax.dynamics.trajectory import estimate_trajectory
from mfgjax.estimate import dispersion_excess
from mfgjax.report.dataset import trajectory_dataset
from mfgjax.report.trajectory_table import checkpoint_frame, remarks
from mfgjax.trace import read_sweep
from mfgjax.trace.schema import StatisticsTrace


@pytest.fixture(scope="module")
def sweep(sweep_folder):
    return read_sweep(sweep_folder)


@pytest.fixture(scope="module")
def trajectory(sweep):
    return estimate_trajectory(sweep.statistics, sweep.checkpoints[0].top_k, resamples=40)


@pytest.fixture(scope="module")
def datasets(sweep, trajectory):
    return {name: trajectory_dataset(trajectory, sweep, interval=name) for name in INTERVALS}


def bounds(dataset, name):
    return np.moveaxis(dataset[f"{name}_interval"].values, -1, 0)


def test_each_interval_does_what_its_name_says(datasets, trajectory):
    percentile, basic = datasets["percentile"], datasets["basic"]
    want = np.quantile(trajectory.resampled.signed, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(bounds(percentile, "signed"), want, rtol=1e-5)
    reflected = 2 * trajectory.estimate.signed[None] - want[::-1]
    np.testing.assert_allclose(bounds(basic, "signed"), reflected, rtol=1e-4, atol=1e-4)
    # Jackknife of the layer average, from the definition.
    whole, without = trajectory.estimate.signed.mean(-1), trajectory.left_out.signed.mean(-1)
    pseudo = 12 * whole - 11 * without
    reach = stats.t.ppf(0.975, 11) * pseudo.std(0, ddof=1) / 12**0.5
    low, high = bounds(datasets["jackknife"], "mean_signed")
    np.testing.assert_allclose(low, pseudo.mean(0) - reach, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(high, pseudo.mean(0) + reach, rtol=1e-3, atol=1e-2)
    for name, dataset in datasets.items():
        assert dataset.attrs["interval"] == name
        assert all(
            np.isfinite(bounds(dataset, v)).all()
            for v in ("signed", "entropy", "dispersion_excess")
        )
        notes = " ".join(remarks(dataset))
        assert "12 texts are few" in notes
        assert ("chosen by hand" in notes) == (name != "corrected")


def test_the_default_is_around_the_corrected_estimates(datasets, trajectory):
    dataset = datasets["corrected"]
    low, high = bounds(dataset, "signed")
    assert ((low < dataset.corrected) & (dataset.corrected < high)).all()
    # Noise attenuates gamma + M: the corrected estimate is further from -M, here on every layer.
    assert (dataset.corrected > dataset.signed).all()
    share = trajectory.corrected.slope.mean(0) / trajectory.corrected.raw_slope
    assert ((share > 0.5) & (share < 1)).all()
    low, high = bounds(dataset, "congestion")
    assert (low >= 0).all() and (high >= low).all() and (low <= dataset.corrected_l1).all()
    assert not np.allclose(dataset.congestion_resamples.std("resample"), 0)


def test_changes_are_paired_and_bands_hold_whole_trajectories(datasets):
    dataset = datasets["corrected"]
    change = dataset.mean_corrected_change.values
    np.testing.assert_allclose(change[1:], np.diff(dataset.mean_corrected.values), rtol=1e-6)
    assert np.isnan(change[0])
    for name in ("mean_corrected", "mean_corrected_l1"):
        low, high = bounds(dataset, name)
        band = dataset[f"{name}_band"].values.T
        assert (band[1] - band[0])[1:].mean() > (high - low)[1:].mean()
        low, high = bounds(dataset, f"{name}_change")
        assert (low[1:] < high[1:]).all()
    assert {"mean_corrected_band_low", "mean_corrected_change_high"} <= set(
        checkpoint_frame(dataset).columns
    )


@pytest.mark.parametrize("level", [0.8, 0.99])
def test_the_level_reaches_every_interval(sweep, trajectory, level):
    """Of corrected resamples, stretched from normal to t quantiles of the level, from (1)."""
    found = trajectory_dataset(trajectory, sweep, confidence=level)
    estimate, corrected = trajectory.estimate, trajectory.corrected
    share = corrected.slope.mean(0) / corrected.raw_slope
    centre = corrected.congestion + (estimate.unclipped - estimate.signed) / share
    drawn = trajectory.resampled.unclipped
    tail = 0.5 + level / 2
    stretch = stats.t.ppf(tail, 11) / stats.norm.ppf(tail)
    moved = centre + stretch * (drawn - drawn.mean(0)) / share
    want = np.maximum(np.quantile(moved, [1 - tail, tail], axis=0), 0)
    np.testing.assert_allclose(bounds(found, "congestion"), want, rtol=1e-3, atol=1e-2)
    for name in INTERVALS:
        one = trajectory_dataset(trajectory, sweep, confidence=level, interval=name)
        average, ends = congestion_of_layers(one)
        np.testing.assert_allclose(average, one.mean_congestion, rtol=1e-6)
        np.testing.assert_allclose(ends.T, bounds(one, "mean_congestion"), rtol=1e-4, atol=1e-4)
        _, single = congestion_of_layers(one.isel(checkpoint=3), [1])
        np.testing.assert_allclose(single, one.congestion_interval[3, 1], rtol=1e-4, atol=1e-4)


def test_an_average_over_layers_without_congestion_holds_zero():
    """Sixteen layers at 0: averages of what was cut off at 0 first never do."""
    rng = np.random.default_rng(0)
    noise = 5 * rng.standard_normal((200, 16))
    held, clipped_held = 0, 0
    for point in noise:
        drawn = point + 5 * rng.standard_normal((300, 16))
        low, _ = average_interval(drawn, 0.95)
        held += low == 0
        clipped_held += np.quantile(np.maximum(drawn, 0).mean(-1), 0.025) <= 0
    assert held >= 186  # 95% and 2.3 errors of 200 draws
    assert clipped_held == 0


def test_an_average_of_layers_far_from_zero_is_the_plain_one():
    rng = np.random.default_rng(1)
    drawn = np.array([40.0, 10.0, -30.0]) + rng.standard_normal((500, 3))
    low, high = average_interval(drawn, 0.9)
    want = np.quantile(np.maximum(drawn, 0).mean(-1), [0.05, 0.95])
    np.testing.assert_allclose([low, high], want, rtol=1e-9)


def test_documents_and_settings_reach_track(sweep_folder, tmp_path):
    texts = mfgjax.track(sweep_folder, resamples=40)
    documents = mfgjax.track(sweep_folder, resamples=40, documents=list("aabbccddeeff"))
    np.testing.assert_allclose(texts.signed, documents.signed, rtol=1e-6)
    assert (texts.signed_resamples != documents.signed_resamples).any()
    assert not np.allclose(texts.corrected_interval, documents.corrected_interval)
    with pytest.raises(ValueError, match="documents name 3 texts, but there are 12"):
        mfgjax.track(sweep_folder, resamples=0, documents=["a", "b", "c"])
    with pytest.raises(ValueError, match="'wald' is not one of corrected, percentile"):
        mfgjax.track(sweep_folder, interval="wald")  # type: ignore[arg-type]


def test_the_excess_over_dispersion_is_that_of_the_trace(datasets, sweep):
    """One estimator: what `mfgjax.estimate.dispersion_excess` says of each checkpoint, whatever the intervals."""
    names = {
        "dispersion_null": ("null", "null_interval"),
        "dispersion_excess": ("excess", "excess_interval"),
        "mean_dispersion_excess": ("mean_excess", "mean_interval"),
    }
    for index, metadata in enumerate(sweep.checkpoints):
        sums = jax.tree.map(lambda leaf, at=index: leaf[at], sweep.statistics)
        want = dispersion_excess(StatisticsTrace(metadata, sums))
        for kind in ("corrected", "percentile"):
            for name, (value, ends) in names.items():
                got = datasets[kind][name][index].values
                np.testing.assert_allclose(got, getattr(want, value), rtol=1e-4, atol=1e-3)
                low, high = datasets[kind][f"{name}_interval"][index].values.T
                np.testing.assert_allclose([low, high], getattr(want, ends), rtol=1e-3, atol=1e-2)
    dataset = datasets["corrected"]
    left = dataset.corrected - dataset.dispersion_null
    np.testing.assert_allclose(dataset.dispersion_excess, left, rtol=1e-6)
    columns = checkpoint_frame(dataset).columns
    assert not {"null", "excess", "mean_null", "mean_excess"} & set(columns)
