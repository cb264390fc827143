"""Phases: the paper's two trajectories, flat series, known shapes, an independent optimiser."""

import numpy as np
import pytest

from mfgjax.dynamics.phases import Phase, segment_phases
from mfgjax.dynamics.segment_cost import segment_costs
from mfgjax.report.reference import published_table

D, S, P, R, N = Phase.DORMANT, Phase.SURGE, Phase.STABILIZATION, Phase.RELAXATION, Phase.NONE


def test_olmoe_trajectory_of_the_paper():
    table = published_table("table1_olmoe_dynamics")
    found = segment_phases(table["gamma_eff"], low=table["ci_low"], high=table["ci_high"])
    assert found.noise == "intervals"
    assert found.names == list(table["phase"])
    assert found.boundary.tolist() == [10, 14]
    # Surge and relaxation are firm. The plateau between them is not: within the published
    # intervals it can as well be the beginning of one long decline.
    assert found.label_probability[[0, 7, 17, 19]].min() > 0.85
    assert 0.4 < found.label_probability[10:14].min() < 0.85


def test_openmoe_trajectory_of_the_paper():
    table = published_table("table2_openmoe_dynamics")
    found = segment_phases(table["gamma_eff"])
    assert found.noise == "differences"
    assert found.names == list(table["phase"])


@pytest.mark.parametrize("level", [0.5, 12.0, 40.0])
def test_a_flat_series_has_no_phases(level):
    assert set(segment_phases(np.full(20, level), draws=5).label) == {N}


def test_dormant_throughout():
    assert set(segment_phases(np.zeros(20), draws=5).label) == {D}


def test_dormant_throughout_with_resamples_on_the_boundary():
    resamples = np.zeros((50, 12))
    resamples[3, 5] = 1.6  # one resample wakes one checkpoint
    found = segment_phases(np.zeros(12), resamples=resamples)
    assert set(found.label) == {D}
    assert found.label_probability.min() > 0.9


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_noise_alone_rarely_makes_phases(spread):
    """Independent noise with its true intervals: claimed in at most a few percent of series."""
    rng = np.random.default_rng(0)
    claimed = 0
    for _ in range(100):
        x = 20 + spread * rng.standard_normal(20)
        half = 1.96 * spread
        claimed += segment_phases(x, low=x - half, high=x + half, draws=1).label[0] != N
    assert claimed <= 5


def test_noise_of_unknown_size_rarely_makes_phases():
    rng = np.random.default_rng(1)
    series = 20 + rng.standard_normal((100, 20))
    claimed = sum(segment_phases(x, draws=1).label[0] != N for x in series)
    assert claimed <= 10


@pytest.mark.parametrize(
    ("series", "want"),
    [
        ([1, 4, 8, 12, 16, 20], [S] * 6),
        ([20, 16, 12, 8, 4, 1], [R] * 6),
        ([0, 0, 0, 5, 20, 30], [D] * 3 + [S] * 3),
        ([5, 20, 30, 22, 22.1, 21.9, 22, 18, 14, 10], [S] * 3 + [P] * 4 + [R] * 3),
        ([5, 20, 30, 30.1, 29.9, 30, 30], [S] * 2 + [P] * 5),
    ],
)
def test_clean_shapes(series, want):
    series = np.asarray(series, dtype=float)
    found = segment_phases(series, low=series - 1, high=series + 1, draws=5)
    assert list(found.label) == want
    assert found.gain > 0


def test_resampled_trajectories_carry_their_uncertainty():
    rng = np.random.default_rng(0)
    clean = np.array([5, 15, 25, 35, 30, 30, 30, 30, 25, 20, 15, 10], dtype=float)
    sharp = segment_phases(clean, resamples=clean + 0.3 * rng.standard_normal((300, 12)))
    blurred = segment_phases(clean, resamples=clean + 3.0 * rng.standard_normal((300, 12)))
    assert sharp.noise == "resamples"
    assert sharp.label_probability.min() > 0.9
    assert blurred.label_probability.min() < sharp.label_probability.min()


def test_a_second_surge_shows_as_misfit():
    x = np.array([5, 20, 35, 20, 5, 20, 35, 20, 5, 20, 35], dtype=float)
    found = segment_phases(x, low=x - 1, high=x + 1, draws=5)
    assert found.misfit > 10


def test_isotonic_fit_matches_scipy():
    scipy = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    x, sigma = rng.normal(size=12).cumsum(), rng.uniform(0.5, 2, 12)
    fits = segment_costs(x, sigma)
    for start, stop in [(0, 12), (3, 9), (5, 6)]:
        want = scipy.isotonic_regression(x[start:stop], weights=sigma[start:stop] ** -2)
        misfit = (((x[start:stop] - want.x) / sigma[start:stop]) ** 2).sum()
        assert fits.misfit[S, start, stop] == pytest.approx(misfit, rel=1e-12, abs=1e-12)
        assert fits.first[S, start, stop] == pytest.approx(want.x[0], rel=1e-12)
        assert fits.last[S, start, stop] == pytest.approx(want.x[-1], rel=1e-12)


def test_the_seed_fixes_the_probabilities():
    x = np.array([5, 20, 30, 22, 23, 21, 15, 10], dtype=float)
    one, two = (segment_phases(x, low=x - 3, high=x + 3, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one.label_probability, two.label_probability)


@pytest.mark.parametrize("bad", [[1.0, 2.0], [1.0, np.nan, 3.0, 4.0]])
def test_bad_series_are_refused(bad):
    with pytest.raises(ValueError, match="checkpoints"):
        segment_phases(np.array(bad))
