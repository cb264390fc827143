"""Scores, Hessians, the information, a step of EM and the layout of parameters, by formulas of their own."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfgjax.gaussian_moe import Mixture, samples_for_temperature
from mfgjax.gaussian_moe.expectation import em_step
from mfgjax.gaussian_moe.information import fisher_information
from mfgjax.gaussian_moe.layout import Layout, Units, inverse_units
from mfgjax.gaussian_moe.model import layout_of, to_mixture
from mfgjax.gaussian_moe.scores import Rows, moments, outer_product
from tests.gaussian_moe import by_hand

CASES = [
    ("linear", 3, 2), ("linear", 1, 2), ("sigmoid", 2, 1), ("tanh", 3, 1),
    ("gelu", 2, 2), ("softplus", 2, 1), ("square", 2, 1), ("relu", 2, 1),
]  # fmt: skip
GRID = (np.arange(100)[:, None] + 0.5) / 100


moments_of = jax.jit(moments, static_argnums=0)
outer_product_of = jax.jit(outer_product, static_argnums=0)


def data(rng, d, rows=24):
    x, y = rng.standard_normal((rows, d)), rng.standard_normal(rows)
    weight = np.ones(rows)
    weight[-3:] = 0
    whole = np.concatenate([x, np.ones((rows, 1))], 1).T.reshape(d + 1, 2, -1).swapaxes(0, 1)
    rows = Rows(whole, y.reshape(2, -1), weight.reshape(2, -1))
    return x[:-3], y[:-3], rows


@pytest.mark.parametrize(("gate", "k", "d"), CASES)
def test_score_and_hessian_are_those_of_complex_steps(gate, k, d):
    rng = np.random.default_rng(k + d)
    layout = Layout(gate, k, d)
    assert gate != "linear" or layout.parameters == k * (2 * d + 3) - (d + 1)
    vector = 0.7 * rng.standard_normal(layout.parameters)
    x, y, rows = data(rng, d)

    def total(v):
        return by_hand.score(gate, v, k, x, y, layout.free_temperature).sum(0)

    found = moments_of(layout, vector, rows)
    value = by_hand.log_density(gate, vector, k, x, y, layout.free_temperature).real.sum()
    np.testing.assert_allclose(found.log_likelihood, value, rtol=1e-12)
    np.testing.assert_allclose(found.gradient, total(vector), rtol=1e-11, atol=1e-11)
    step = 1e-5 * np.eye(len(vector))
    hessian = np.stack([(total(vector + h) - total(vector - h)) / 2e-5 for h in step])
    np.testing.assert_allclose(found.hessian, hessian, rtol=1e-7, atol=1e-7)


def test_outer_product_is_that_of_the_scores():
    rng = np.random.default_rng(5)
    layout = Layout("sigmoid", 2, 1)
    vector = 0.7 * rng.standard_normal(layout.parameters)
    x, y, rows = data(rng, 1)
    own = by_hand.score("sigmoid", vector, 2, x, y, True)
    found = outer_product_of(layout, vector, rows)
    np.testing.assert_allclose(found, own.T @ own, rtol=1e-11, atol=1e-11)


def mixture_of(gate, weight, offset, temperature):
    """The experts of the published truth behind another gate."""
    return Mixture(
        np.array(weight)[:, None], np.array([offset, 0.0]), np.array(temperature),
        np.array([[-20.0], [20.0]]), np.array([15.0, -5.0]), np.array([0.09, 0.16]), gate,
    )  # fmt: skip


@pytest.fixture(scope="module")
def informations():
    """Of the published truth in the raw parameters, by gate: weights (8, -6), temperature .2."""
    gates = ("linear", "square", "sigmoid")
    mixtures = {g: mixture_of(g, (8.0, -6.0), -2.0, 0.2) for g in gates}
    return {g: np.asarray(fisher_information(m, GRID, raw=True)) for g, m in mixtures.items()}


def test_information_is_that_of_a_dense_sum_over_y(informations):
    vector = np.array([8, -6, np.log(0.2), -2, -20, 20, 15, -5, np.log(0.09), np.log(0.16)])
    y = np.linspace(-25, 35, 1501)  # seven to a standard deviation: exact but for rounding
    dense = 0
    for x in GRID:
        at = np.full((len(y), 1), x)
        mass = np.exp(by_hand.log_density("sigmoid", vector, 2, at, y, True).real) * (y[1] - y[0])
        own = by_hand.score("sigmoid", vector, 2, at, y, True)
        dense = dense + (own.T * mass) @ own / len(GRID)
    np.testing.assert_allclose(
        informations["sigmoid"], dense, rtol=1e-8, atol=1e-8 * np.abs(dense).max()
    )


def test_temperature_is_flat_under_homogeneous_gates_only(informations):
    names = layout_of(mixture_of("linear", (8.0, -6.0), -2.0, 0.2), raw=True).names
    for gate, degree in (("linear", 1), ("square", 2), ("sigmoid", 1)):
        along = np.zeros(len(names))
        along[:2], along[names.index("log temperature")] = (8.0, -6.0), degree
        matrix = informations[gate]
        flatness = along @ matrix @ along / (along**2 @ np.diag(matrix))
        if gate == "sigmoid":
            assert flatness > 1e-3
        else:
            assert abs(flatness) < 1e-12


def test_samples_that_show_a_temperature():
    sigmoid = mixture_of("sigmoid", (8.0, -6.0), -2.0, 0.2)
    assert 1.4e3 < samples_for_temperature(sigmoid, GRID) < 1.6e3
    assert samples_for_temperature(mixture_of("linear", (8.0, -6.0), -2.0, np.nan), GRID) == np.inf
    assert samples_for_temperature(mixture_of("relu", (8.0, -6.0), -2.0, np.nan), GRID) == np.inf
    finer = samples_for_temperature(sigmoid, GRID, 0.05)
    np.testing.assert_allclose(finer, 4 * samples_for_temperature(sigmoid, GRID))


def test_a_step_of_em_is_the_one_by_hand_and_rises():
    rng = np.random.default_rng(1)
    x, y, vector = by_hand.two_lines(rng, 1, 200)
    x, y = x[0], y[0]
    layout = Layout("linear", 2, 1)
    inputs, one = np.concatenate([x, np.ones_like(x)], 1).T, np.ones(len(y))
    step = jax.jit(lambda v, inputs, y: em_step(layout, v, inputs, y, one, 1e-6)[0])
    start = vector + 0.5 * rng.standard_normal(len(vector))

    @jax.jit
    def parts(vector, x):
        mixture = to_mixture(layout, vector)
        return mixture.log_gate(x), mixture.expert_mean(x), mixture.variance

    joint, mean, variance = map(np.asarray, parts(start, x))
    away = (y[:, None] - mean) ** 2
    joint = joint - 0.5 * (away / variance + np.log(variance))
    r = np.exp(joint - joint.max(1, keepdims=True))
    r /= r.sum(1, keepdims=True)
    moved = np.asarray(step(start, inputs, y))
    for i in range(2):
        root = np.sqrt(r[:, i])
        line = np.linalg.lstsq(
            root[:, None] * np.hstack([x, np.ones_like(x)]), root * y, rcond=None
        )[0]
        np.testing.assert_allclose(moved[[2 + i, 4 + i]], line, rtol=1e-7)
        variance = (r[:, i] * (y - x[:, 0] * line[0] - line[1]) ** 2).sum() / r[:, i].sum()
        np.testing.assert_allclose(moved[6 + i], np.log(variance), rtol=1e-7, atol=1e-7)
    path = [start]
    for _ in range(25):
        path.append(np.asarray(step(path[-1], inputs, y)))
    level = [by_hand.log_density("linear", v, 2, x, y).real.sum() for v in path]
    assert all(b > a - 1e-9 for a, b in itertools.pairwise(level))


@settings(max_examples=4, deadline=None)
@given(
    st.sampled_from(["linear", "sigmoid", "square"]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_vectors_of_every_shape_come_back(gate, k, d, raw, seed):
    rng = np.random.default_rng(seed)
    layout = Layout(gate, k, d, raw and k > 1)
    assert layout.parameters == len(set(layout.names))
    vector = rng.standard_normal(layout.parameters)
    shift = rng.standard_normal(d) if layout.relative else np.zeros(d)
    units = Units(shift, rng.uniform(0.5, 2, d), *np.array([rng.normal(), rng.uniform(0.5, 2)]))

    @jax.jit
    def there_and_back(vector, units):
        same = layout.pack(layout.unpack(vector))
        return same, layout.in_units(layout.in_units(vector, units), inverse_units(units))

    same, back = there_and_back(vector, units)
    np.testing.assert_array_equal(same, vector)
    np.testing.assert_allclose(back, vector, atol=1e-10)
