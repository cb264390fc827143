"""The scikit-learn side: its own checks, and what the estimator says when it cannot fit."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import estimator_checks_generator

from mfgjax.gaussian_moe import GaussianMoERegressor, Mixture, estimator
from mfgjax.gaussian_moe.layout import Layout
from mfgjax.gaussian_moe.observations import refuse
from tests.gaussian_moe import by_hand


@pytest.fixture(scope="module")
def fitted():
    x, y, _ = by_hand.two_lines(np.random.default_rng(0), 1, 300)
    return GaussianMoERegressor(2, starts=3, random_state=0).fit(x[0], y[0]), x[0], y[0]


def test_predictions_are_those_of_the_mixture(fitted):
    model, x, y = fitted
    vector = model.fit_.vector
    density = by_hand.log_density("linear", vector, 2, x, y).real
    np.testing.assert_allclose(model.log_density(x, y), density, rtol=1e-9)
    np.testing.assert_allclose(density.sum(), model.fit_.log_likelihood, rtol=1e-12)
    chance = 1 / (1 + np.exp(-(vector[0] * x[:, 0] + vector[1])))
    lines = vector[2:4] * x + vector[4:6]
    mean = chance * lines[:, 0] + (1 - chance) * lines[:, 1]
    np.testing.assert_allclose(model.predict(x), mean, rtol=1e-9)
    rest = 1 - ((y - mean) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    np.testing.assert_allclose(model.score(x, y), rest, rtol=1e-9)
    drawn = model.sample(np.repeat(x[:1], 4000, 0), random_state=0)
    assert abs(drawn.mean() - mean[0]) < 5 * drawn.std() / 4000**0.5
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


def test_what_cannot_be_fitted_says_why():
    x = np.arange(300.0)[:, None]
    with pytest.raises(ValueError, match=r"TOO_FEW \(8 samples, 8 parameters\): .*lower experts"):
        GaussianMoERegressor(2).fit(x[:8], x[:8, 0])
    with pytest.raises(ValueError, match=r"DEGENERATE.*constant"):
        GaussianMoERegressor(2).fit(np.ones_like(x), x[:, 0])
    rng = np.random.default_rng(1)
    x = rng.uniform(size=(300, 1))
    y = np.where(x[:, 0] > 0.5, 40 + x[:, 0], -30 * x[:, 0]) + 0.01 * rng.standard_normal(300)
    with pytest.warns(ConvergenceWarning, match="AT_BOUND: .*gate_bound"):
        GaussianMoERegressor(2, starts=3, random_state=0).fit(x, y)


def test_bad_rows_say_what_is_wrong(fitted):
    model, x, y = fitted
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.log_density(x, y[:-1])
    with pytest.raises(ValueError, match=r"y contains NaN"):
        model.log_density(x, np.where(y > 0, y, np.nan))
    for ask in (model.predict, model.sample):
        with pytest.raises(ValueError, match=r"2 features, but .* expecting 1"):
            ask(np.hstack([x, x]))
        with pytest.raises(ValueError, match="X contains NaN"):
            ask(np.where(x > 0.5, x, np.nan))


def least_squares(x, y, experts, **_):
    """What `fit_mixture` finds for one expert (tested beside it), without a program for each shape."""
    layout = Layout("linear", experts, x.shape[1])
    status = int(refuse(x[None], y[None], layout)[0])
    design = np.hstack([x, np.ones((len(x), 1))])
    line = np.linalg.lstsq(design, y, rcond=None)[0]
    variance = ((y - design @ line) ** 2).mean()
    none = np.zeros((1, x.shape[1]))
    mixture = Mixture(
        none, none[:, 0], np.array(np.nan), line[None, :-1], line[-1:], variance[None]
    )
    return SimpleNamespace(status=status, mixture=mixture, steps=0, layout=layout)


def test_checks_of_scikit_learn(monkeypatch):
    monkeypatch.setattr(estimator, "fit_mixture", least_squares)
    for model, check in estimator_checks_generator(GaussianMoERegressor(1)):
        if getattr(check, "func", check).__name__ != "check_array_api_input":  # skipped by itself
            check(model)
