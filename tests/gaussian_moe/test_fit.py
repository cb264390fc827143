"""Fits: estimates against scipy, certificates recomputed, statuses of data that cannot be fitted."""

import jax
import numpy as np
import pytest
from scipy.optimize import minimize

from mfgjax.gaussian_moe import fit_mixture
from mfgjax.gaussian_moe.fit import _vectors
from mfgjax.gaussian_moe.observations import units_of
from mfgjax.gaussian_moe.result import MixtureStatus, check_mixture_fit
from tests.gaussian_moe import by_hand

ROWS, GOOD = 300, 3
CASES = ("good", "good", "good", "nan", "constant x", "constant y", "separated")


@pytest.fixture(scope="module")
def batch():
    """Good data sets and bad ones in one batch: `x`, `y`."""
    rng = np.random.default_rng(0)
    x, y, _ = by_hand.two_lines(rng, len(CASES), ROWS)
    y[CASES.index("nan"), 7] = np.nan
    x[CASES.index("constant x")] = 2.0
    y[CASES.index("constant y")] = -1.0
    place = CASES.index("separated")
    noise = 0.3 * rng.standard_normal(ROWS)
    y[place] = np.where(x[place, :, 0] > 0.5, 40 + x[place, :, 0], -30 * x[place, :, 0]) + noise
    return x, y


@pytest.fixture(scope="module")
def fit(batch):
    return fit_mixture(*batch, 2, starts=3)


def test_status_of_every_data_set(fit):
    words = {"nan": "BAD_INPUT", "constant x": "DEGENERATE", "constant y": "DEGENERATE"}
    words |= {"separated": "AT_BOUND", "good": "CONVERGED"}
    assert [MixtureStatus(int(s)).name for s in fit.status] == [words[c] for c in CASES]
    refused = np.isin(fit.status, [MixtureStatus.BAD_INPUT, MixtureStatus.DEGENERATE])
    assert np.isnan(fit.vector[refused]).all() and np.isfinite(fit.vector[~refused]).all()
    assert np.isnan(np.asarray(fit.log_likelihood)[refused]).all()
    held = np.asarray(fit.at_bound)[CASES.index("separated")]
    assert [n for n, h in zip(fit.names, held, strict=True) if h] == ["weight[0,0]"]
    assert "2 BAD_INPUT" not in repr(fit) and "3 CONVERGED" in repr(fit)


def test_check_names_what_failed(fit):
    with pytest.raises(ValueError, match=r"4 of 7.*\n.*\(3,\): BAD_INPUT: look for NaN"):
        check_mixture_fit(fit)


def test_estimate_is_the_maximum_that_scipy_finds(batch, fit):
    x, y = batch
    truth = by_hand.two_lines(np.random.default_rng(0), 1, 1)[2]
    for i in range(GOOD):

        def loss(v, i=i):
            return -by_hand.log_density("linear", v, 2, x[i], y[i]).real.sum()

        def gradient(v, i=i):
            return -by_hand.score("linear", v, 2, x[i], y[i]).sum(0)

        found = minimize(loss, truth, jac=gradient, method="BFGS", options={"gtol": 1e-7})
        np.testing.assert_allclose(fit.log_likelihood[i], -found.fun, atol=1e-5)
        mine = fit.vector[i]
        if (mine[4] - mine[5]) * (truth[4] - truth[5]) < 0:  # the other labels
            mine = np.concatenate([-mine[:2], mine[[3, 2, 5, 4, 7, 6]]])
        error = np.sqrt(np.diag(fit.covariance[i]))[:2]
        assert (np.abs(mine - found.x)[:2] < 0.02 * error).all()
        np.testing.assert_allclose(mine[2:], found.x[2:], atol=1e-2)


def test_certificates_are_those_of_the_scores(batch, fit):
    x, y = batch
    for i in range(GOOD):
        v = fit.vector[i]
        own = by_hand.score("linear", v, 2, x[i], y[i])

        def total(v, i=i):
            return by_hand.score("linear", v, 2, x[i], y[i]).sum(0)

        information = np.stack(
            [(total(v - h) - total(v + h)) / 2e-5 for h in 1e-5 * np.eye(len(v))]
        )
        np.testing.assert_allclose(fit.information[i], information, rtol=1e-6, atol=1e-5)
        inverse = np.linalg.inv(information)
        np.testing.assert_allclose(fit.covariance[i], inverse, rtol=1e-5, atol=1e-7)
        sandwich = inverse @ own.T @ own @ inverse
        np.testing.assert_allclose(fit.robust_covariance[i], sandwich, rtol=1e-5, atol=1e-6)
        squares = own.T @ own
        scale = np.sqrt(np.diag(squares))
        values = np.linalg.eigvalsh(squares / scale / scale[:, None])
        np.testing.assert_allclose(fit.eigenvalues[i], values, rtol=1e-6)
        np.testing.assert_allclose(fit.decrement[i], total(v) @ inverse @ total(v), atol=1e-6)
        assert fit.decrement[i] <= 1e-4 and fit.smallest_eigenvalue[i] > 1e-4
        low, high = fit.interval(0.9)
        half = 1.6448536 * np.sqrt(np.diag(inverse))
        np.testing.assert_allclose((high - low)[i] / 2, half, rtol=1e-5)
    assert np.asarray(fit.found_twice)[:GOOD].all()
    starts = np.asarray(fit.start_log_likelihood)[:GOOD]
    assert (starts.max(1) == np.asarray(fit.log_likelihood)[:GOOD]).all()


def test_units_of_the_data_are_those_of_the_estimate(batch, fit):
    x, y = batch
    there = fit_mixture(100 + 1e-3 * x, 50 - 7 * y, 2, starts=3)
    good = slice(GOOD)
    shift = ROWS * np.log(7)
    np.testing.assert_allclose(
        np.asarray(there.log_likelihood)[good],
        np.asarray(fit.log_likelihood)[good] - shift,
        atol=1e-3,
    )
    slope = np.sort(there.mixture.slope[good, :, 0] / -7e3, axis=1)
    np.testing.assert_allclose(slope, np.sort(fit.mixture.slope[good, :, 0], axis=1), atol=1e-2)
    assert (np.asarray(there.status) == np.asarray(fit.status)).all()
    spread = np.sort(np.asarray(there.covariance)[good, 2:4, 2:4].diagonal(0, 1, 2), 1)
    own = np.sort(np.asarray(fit.covariance)[good, 2:4, 2:4].diagonal(0, 1, 2), 1)
    np.testing.assert_allclose(spread / 49e6, own, rtol=1e-2)


def test_float64_whatever_the_default(batch, fit):
    with jax.enable_x64(False):
        narrow = fit_mixture(*batch, 2, starts=3)
    assert narrow.log_likelihood.dtype == np.float64
    np.testing.assert_array_equal(narrow.vector, fit.vector)


def test_given_starts_are_in_the_units_of_the_fit(batch, fit):
    x, y = (part[:GOOD] for part in batch)
    units = units_of(x, y, fit.layout)
    mixture = jax.tree.map(lambda leaf: leaf[:GOOD], fit.mixture)

    @jax.jit
    def there_and_back(mixture, units):
        found = _vectors(fit.layout, mixture, units, GOOD, (GOOD,))
        return found, jax.vmap(fit.layout.in_units)(found, units)

    found, back = there_and_back(mixture, units)
    np.testing.assert_allclose(back, fit.vector[:GOOD], rtol=1e-10)
    assert np.abs(found - fit.vector[:GOOD]).max() > 0.1, "the units differ"


def test_linear_gate_has_no_temperature(fit):
    assert np.isnan(fit.mixture.temperature).all() and not fit.temperature_identified.any()
    assert "homogeneous" in fit.reason and np.isinf(fit.samples_for_temperature()).all()


def test_no_more_observations_than_parameters():
    x = np.zeros((2, 8, 1))
    x[1] = np.nan
    fit = fit_mixture(x, np.zeros((2, 8)), 2)
    assert fit.status.tolist() == [MixtureStatus.TOO_FEW, MixtureStatus.BAD_INPUT]
    assert fit.vector.shape == (2, 8)
    assert np.isnan(fit.vector).all() and np.isnan(fit.covariance).all()


def test_one_expert_is_least_squares():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 60, 2))
    y = x @ [1.0, -2.0] + 0.5 + rng.standard_normal((2, 60))
    fit = fit_mixture(x, y, 1, starts=2)
    assert fit.converged.all() and fit.names[0] == "slope[0,0]" and "no gate" in fit.reason
    for i in range(2):
        design = np.hstack([x[i], np.ones((60, 1))])
        line, rest, *_ = np.linalg.lstsq(design, y[i], rcond=None)
        np.testing.assert_allclose(
            fit.vector[i], [*line, np.log(rest[0] / 60)], rtol=1e-8, atol=1e-8
        )
        cov = np.linalg.inv(design.T @ design) * rest[0] / 60
        np.testing.assert_allclose(fit.covariance[i][:3, :3], cov, rtol=1e-6, atol=1e-9)


def behind_sigmoids(seed, weights, offset, temperature):
    """The published lines behind another gate: more rows than those that find the basin."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(1, 6000, 1))
    one, two = (1 / (1 + np.exp(-w * x[..., 0])) for w in weights)
    first = rng.uniform(size=(1, 6000)) < 1 / (1 + np.exp(-(one - two + offset) / temperature))
    y = np.where(first, 15 - 20 * x[..., 0], -5 + 20 * x[..., 0])
    return x, y + 0.3 * rng.standard_normal(y.shape)


def maximum_near(vector, x, y):
    """The log-likelihood that scipy reaches from there, and minus its gradient."""

    def loss(v):
        return -by_hand.log_density("sigmoid", v, 2, x, y, True).real.sum()

    def gradient(v):
        return -by_hand.score("sigmoid", v, 2, x, y, True).sum(0)

    return -minimize(loss, vector, jac=gradient, method="BFGS").fun, gradient


def test_a_rival_at_half_the_temperature_is_found():
    """Two sigmoids of two signs are nearly one at half the temperature. On these data all random starts, and
    one at the truth, end at the lower of the two maxima."""
    x, y = behind_sigmoids(5, (8, -6), -0.4, 0.2)
    experts = [-20, 20, 15, -5, np.log(0.09), np.log(0.09)]
    true, _ = maximum_near([8, -6, np.log(0.2), -2, *experts], x[0], y[0])
    rival, _ = maximum_near([7, -0.2, np.log(0.11), -2, *experts], x[0], y[0])
    assert rival > true + 0.1
    fit = fit_mixture(x, y, 2, gate="sigmoid", starts=4)
    assert np.asarray(fit.start_log_likelihood).max() < true + 1e-3, "or the test shows nothing"
    np.testing.assert_allclose(fit.log_likelihood[0], rival, atol=1e-3)
    np.testing.assert_allclose(fit.rival_gap[0], rival - true, atol=2e-3)
    assert int(fit.status[0]) == MixtureStatus.AMBIGUOUS and not fit.temperature_identified[0]


def test_a_temperature_that_can_be_seen():
    x, y = behind_sigmoids(4, (20, 3), -0.165, 0.1)
    fit = fit_mixture(x, y, 2, gate="sigmoid", starts=4)
    assert fit.converged[0] and fit.temperature_identified[0] and fit.reason == ""
    place = fit.names.index("log temperature")
    low, high = fit.interval(0.999)
    assert low[0, place] < np.log(0.1) < high[0, place]
    error = np.sqrt(fit.covariance[0, place, place])
    np.testing.assert_allclose(fit.samples_for_temperature(), 6000 * (error / 0.1) ** 2, rtol=1e-12)
    assert float(fit.mixture.weight[0, :, 0].sum()) >= 0  # of two mirror images the upright one

    known = [20, 3, np.log(0.1), -1.65, -20, 20, 15, -5, np.log(0.09), np.log(0.09)]
    level, gradient = maximum_near(known, x[0], y[0])
    np.testing.assert_allclose(fit.log_likelihood[0], level, atol=1e-3)
    pull = gradient(fit.vector[0])
    assert pull @ np.linalg.inv(fit.information[0]) @ pull <= 1e-4, "the matrix is of this image"


def test_a_maximum_that_is_its_own_mirror_image_is_flat():
    x, y = behind_sigmoids(
        1, (6, -5), -0.4, 0.2
    )  # the rival at half the temperature is out of bounds
    fit = fit_mixture(x, y, 2, gate="sigmoid", starts=4, temperature_range=(0.15, 100.0))
    assert int(fit.status[0]) == MixtureStatus.FLAT and not fit.temperature_identified[0]
    assert fit.vector[0, :2].sum() == 0 and np.isinf(np.diag(fit.covariance[0])[:2]).all()
    along = np.array([1.0, 1, *np.zeros(8)])
    own = by_hand.score("sigmoid", fit.vector[0], 2, x[0], y[0], True)
    assert np.abs(own @ along).max() < 1e-10 * np.abs(own[:, 0]).max()
    level = [
        by_hand.log_density("sigmoid", fit.vector[0] + s * along, 2, x[0], y[0], True).real.sum()
        for s in (-1, 0, 1)
    ]
    np.testing.assert_allclose(level[0], level[2], rtol=1e-10)
    assert level[1] > level[0], "a maximum all the same"


def test_null_directions_have_names():
    rng = np.random.default_rng(0)
    x, y, _ = by_hand.two_lines(rng, 1, ROWS)
    fit = fit_mixture(x, y, 2, gate="square", starts=2)
    (direction,) = fit.null_directions((0,))
    assert int(fit.status[0]) == MixtureStatus.FLAT and fit.smallest_eigenvalue[0] < 1e-11
    assert set(direction) == {"weight[0,0]", "weight[1,0]"}, "only w_0^2 - w_1^2 enters"
    spread = np.diag(fit.covariance[0])
    loose = np.isinf(spread)
    assert [n for n, one in zip(fit.names, loose, strict=True) if one] == [
        "weight[0,0]",
        "weight[1,0]",
    ]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"gate": "swish"}, "no gate 'swish': there are linear"),
        ({"starts": 0}, "no start"),
        ({"variance_floor": 0.0}, "compact set is empty"),
        ({"temperature_range": (1.0, 0.5)}, "compact set is empty"),
    ],
)
def test_bad_arguments_say_what_to_do(arguments, match):
    with pytest.raises(ValueError, match=match):
        fit_mixture(np.zeros((9, 1)), np.zeros(9), 2, **arguments)


def test_shapes_must_match():
    with pytest.raises(ValueError, match=r"x \(9, 1\), y \(8,\)"):
        fit_mixture(np.zeros((9, 1)), np.zeros(8), 2)
