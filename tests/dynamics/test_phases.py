"""Phases: the paper's two trajectories, flat series, known shapes, an independent optimiser."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from mfgjax.dynamics.phases import LEAST_GAIN, Phase, find_phases, segment_phases
from mfgjax.dynamics.segment_cost import constant_cost, segment_costs
from mfgjax.report.reference import published_table

D, S, P, R, N = Phase.DORMANT, Phase.SURGE, Phase.STABILIZATION, Phase.RELAXATION, Phase.NONE
UNPAID = {(D, S), (S, P)}  # boundaries that stand for a level of the surge


def test_olmoe_trajectory_of_the_paper():
    table = published_table("table1_olmoe_dynamics")
    found = segment_phases(table["gamma_eff"], low=table["ci_low"], high=table["ci_high"])
    assert found.noise == "intervals"
    assert found.names == list(table["phase"])
    assert found.boundary.tolist() == [10, 14]
    # The foot of the surge and the relaxation are firm. The plateau between them is not: within the
    # published intervals it can as well begin at the peak, or be the beginning of one long decline.
    assert found.label_probability[[0, 4, 17, 19]].min() > 0.85
    assert 0.4 < found.label_probability[10:14].min() < 0.85


def test_without_known_noise_nothing_is_claimed():
    table = published_table("table2_openmoe_dynamics")  # no intervals
    found = segment_phases(table["gamma_eff"])
    assert found.noise == "unknown"
    assert set(found.label) == {N} and len(found.boundary) == 0
    assert np.isnan(found.label_probability).all() and np.isnan(found.gain)


@pytest.mark.parametrize("level", [0.5, 12.0, 40.0])
def test_a_flat_series_has_no_phases(level):
    series = np.full(20, level)
    assert set(segment_phases(series, low=series - 0.1, high=series + 0.1, draws=5).label) == {N}


def test_dormant_throughout_with_resamples_on_the_boundary():
    resamples = np.zeros((50, 12))
    resamples[3, 5] = 1.6  # one resample wakes one checkpoint
    found = segment_phases(np.zeros(12), resamples=resamples)
    assert set(found.label) == {D}
    assert found.label_probability.min() > 0.9


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("level", [0.0, 1.0, 20.0])
@pytest.mark.parametrize("checkpoints", [5, 20])
def test_noise_alone_rarely_makes_phases(checkpoints, level, cut):
    """Independent noise of known size 1 about 0, about little and about much; cut off at 0 or not."""
    noise = np.random.default_rng(0).standard_normal((1000, checkpoints))
    series = np.maximum(level + noise, 0) if cut else level + noise
    label, *_ = find_phases(series, np.ones(checkpoints))
    assert (label > D).any(1).mean() <= 0.05


def test_intervals_cut_off_at_zero_do_not_hide_the_noise():
    noise = np.random.default_rng(1).standard_normal((100, 20))
    claimed = 0
    for estimate in np.maximum(noise, 0):
        low = np.maximum(estimate - 1.96, 0)
        found = segment_phases(estimate, low=low, high=estimate + 1.96, draws=1)
        claimed += (found.label > D).any()
    assert claimed <= 5


def exhaustive(series, sigma):
    """Least cost of every sequence over all places of its boundaries, and its labels."""
    n, fits = len(series), segment_costs(series[None], sigma)
    cost, first, last = fits.cost[0], fits.first[0], fits.last[0]
    best = (np.inf, None)
    order = [q for r in (4, 3, 2, 1) for q in combinations((D, S, P, R), r)]
    for phases in [q for q in order if q != (P,) and (q[0] != D or q[1:2] in ((), (S,)))]:
        for cuts in combinations(range(1, n), len(phases) - 1):
            edges = (0, *cuts, n)
            parts = list(zip(phases, edges[:-1], edges[1:], strict=True))
            total = sum(cost[part] for part in parts)
            total += np.log(n) * sum(pair not in UNPAID for pair in pairwise(phases))
            if phases[0] == S and not last[parts[0]] > first[parts[0]]:
                continue
            if len(phases) > 1 and phases[-1] == R:
                top, (_, start, stop) = first[parts[-1]], parts[-1]
                step = (top - last[parts[-1]]) / max(stop - start - 1, 1)
                if top >= last[parts[-2]] or top > last[parts[-2]] - step / 2:
                    continue
            if total < best[0] - 1e-9:
                best = total, np.concatenate([np.full(b - a, p) for p, a, b in parts])
    return best


def test_the_search_is_exhaustive():
    """Dynamic programming over all rows at once against every boundary of every sequence."""
    rng = np.random.default_rng(0)
    series = rng.standard_normal((24, 9)) + 4 * np.abs(
        np.sin(np.arange(9) * rng.uniform(0.2, 1, (24, 1)))
    )
    series[::3] = series[::3].cumsum(1) / 2
    sigma = rng.uniform(0.3, 0.8, 9)
    label, gain, _ = find_phases(series, sigma)
    claimed = 0
    for row, found, more in zip(series, label, gain, strict=True):
        least, want = exhaustive(row, sigma)
        paid = np.log(9) * sum(pair in UNPAID for pair in pairwise(want))
        assert more == pytest.approx(constant_cost(row[None], sigma)[0] - least - paid, rel=1e-9)
        if more > LEAST_GAIN:
            claimed += 1
            np.testing.assert_array_equal(found, want)
    assert claimed > 12


@pytest.mark.parametrize(
    ("series", "want"),
    [
        ([1, 4, 8, 12, 16, 20], [S] * 6),
        ([20, 16, 12, 8, 4, 1], [R] * 6),
        ([0, 0, 0, 5, 20, 30], [D] * 3 + [S] * 3),
        ([0.4, 5, 20, 30, 40, 45], [D] + [S] * 5),
        ([0, 0, 6, 12, 24, 40, 41, 40, 31, 22, 13], [D] * 2 + [S] * 3 + [P] * 3 + [R] * 3),
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
    fits = segment_costs(x[None], sigma)
    for start, stop in [(0, 12), (3, 9), (5, 6)]:
        want = scipy.isotonic_regression(x[start:stop], weights=sigma[start:stop] ** -2)
        misfit = (((x[start:stop] - want.x) / sigma[start:stop]) ** 2).sum()
        assert fits.misfit[0, S, start, stop] == pytest.approx(misfit, rel=1e-12, abs=1e-12)
        assert fits.first[0, S, start, stop] == pytest.approx(want.x[0], rel=1e-12)
        assert fits.last[0, S, start, stop] == pytest.approx(want.x[-1], rel=1e-12)


def test_the_seed_fixes_the_probabilities():
    x = np.array([5, 20, 30, 22, 23, 21, 15, 10], dtype=float)
    one, two = (segment_phases(x, low=x - 3, high=x + 3, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one.label_probability, two.label_probability)


@pytest.mark.parametrize("bad", [[1.0, 2.0], [1.0, np.nan, 3.0, 4.0]])
def test_bad_series_are_refused(bad):
    with pytest.raises(ValueError, match="checkpoints"):
        segment_phases(np.array(bad))
