"""The one interval function: every kind, at several levels, against scipy and the definitions."""

import numpy as np
import pytest
from scipy import stats

from mfgjax.estimate.inference.interval import confidence_interval


@pytest.fixture(scope="module")
def skewed():
    rng = np.random.default_rng(0)
    data = rng.exponential(size=25)
    drawn = data[rng.integers(0, 25, size=(20_000, 25))].mean(1)
    left_out = (data.sum() - data) / 24
    return data, {"resampled": drawn, "estimate": data.mean(), "left_out": left_out}


@pytest.mark.parametrize("level", [0.8, 0.99])
@pytest.mark.parametrize("kind", ["percentile", "basic", "BCa"])
def test_bootstrap_intervals_match_scipy_at_every_level(skewed, kind, level):
    data, given = skewed
    want = stats.bootstrap(
        (data,), np.mean, n_resamples=20_000, method=kind, confidence_level=level, rng=1
    ).confidence_interval
    found = confidence_interval(level=level, kind=kind.lower(), **given)
    # 20,000 resamples: scipy's own ends at .99 move by 0.03 between seeds.
    np.testing.assert_allclose(found, want, atol=0.05)


@pytest.mark.parametrize("level", [0.8, 0.99])
def test_the_jackknife_of_a_mean_is_student_t(skewed, level):
    data, given = skewed
    want = stats.t.interval(level, len(data) - 1, data.mean(), stats.sem(data))
    found = confidence_interval(level=level, kind="jackknife", **given)
    np.testing.assert_allclose(found, want, rtol=1e-10)


def test_resamples_without_an_estimate_are_left_out():
    values = np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, np.nan], [3.0, np.nan]])
    found = confidence_interval(values, 0.5)
    np.testing.assert_allclose(found[0], np.quantile([1, 2, 3], [0.25, 0.75]))
    assert np.isnan(found[1]).all()


def test_what_is_missing_is_named(skewed):
    _, given = skewed
    with pytest.raises(ValueError, match="level is 95"):
        confidence_interval(given["resampled"], 95)
    with pytest.raises(ValueError, match="basic interval needs the estimate"):
        confidence_interval(given["resampled"], kind="basic")
    with pytest.raises(ValueError, match="bca interval needs estimates with texts left out"):
        confidence_interval(given["resampled"], kind="bca", estimate=1.0)
