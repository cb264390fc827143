"""Classic metrics against their definitions, written out by hand or taken from scipy."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy, variation

from mfgjax.metrics.balance import hill_number
from mfgjax.metrics.per_layer import measure_balance, percentiles_over_layers
from mfgjax.metrics.sampling_floor import (
    load_noise,
    max_absolute_violation_floor,
    max_violation_floor,
)

measure = jax.jit(measure_balance)
RTOL = 1e-10  # float64 sums of at most 32 terms
counts = arrays(np.int64, st.tuples(st.just(3), st.just(7)), elements=st.integers(0, 1000)).filter(
    lambda c: (c.sum(-1) > 0).all()
)


def pairwise_gini(share):
    return np.abs(share[:, None] - share[None, :]).sum() / (2 * len(share))


@given(counts)
@settings(max_examples=25, deadline=None)
def test_every_metric_is_its_definition_and_has_no_scale(load):
    got, scaled = (jax.device_get(measure(load.astype(float) / by)) for by in (1, 17))
    for row in range(len(load)):
        share = load[row] / load[row].sum()
        relative = len(share) * share
        want = {
            "entropy": entropy(share) / np.log(len(share)),
            "gini": pairwise_gini(share),
            "coefficient_of_variation": variation(load[row]),
            "max_violation": (load[row].max() - load[row].mean()) / load[row].mean(),
            "max_absolute_violation": max(relative.max() - 1, 1 - relative.min()),
            "max_min_ratio": np.divide(share.max(), share.min()) if share.min() else np.inf,
            "balancedness": load[row].mean() / load[row].max(),
            "effective_experts": np.exp(entropy(share)),
            "effective_experts_order2": 1 / (share**2).sum(),
            "dead_experts": (load[row] == 0).sum(),
        }
        for name, value in want.items():
            for found in (got, scaled):
                assert float(getattr(found, name)[row]) == pytest.approx(
                    value, rel=RTOL, abs=RTOL
                ), name


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_extremes_of_the_table(dtype):
    experts = 8
    even, one = (
        measure(np.array(load, dtype)) for load in (np.ones(experts), 5 * np.eye(experts)[2])
    )
    assert even.gini.dtype == dtype
    for name, balanced, collapsed in [
        ("entropy", 1, 0),
        ("gini", 0, 1 - 1 / experts),
        ("coefficient_of_variation", 0, np.sqrt(experts - 1)),
        ("max_violation", 0, experts - 1),
        ("max_absolute_violation", 0, experts - 1),
        ("max_min_ratio", 1, np.inf),
        ("balancedness", 1, 1 / experts),
        ("effective_experts", experts, 1),
        ("effective_experts_order2", experts, 1),
        ("dead_experts", 0, experts - 1),
    ]:
        assert float(getattr(even, name)) == pytest.approx(balanced, rel=1e-5, abs=1e-6), name
        assert float(getattr(one, name)) == pytest.approx(collapsed, rel=1e-5, abs=1e-6), name


def test_hill_numbers_fall_with_their_order_and_meet_at_one():
    load = np.array([0.0, 3.0, 1.0, 6.0])
    orders = [0, 0.5, 1, 1 + 1e-7, 2, 5, float("inf")]
    values = [float(hill_number(load, order)) for order in orders]
    assert values[0] == 3 and values[-1] == pytest.approx(10 / 6)
    assert values == sorted(values, reverse=True)
    assert values[2] == pytest.approx(values[3], rel=1e-5)
    with pytest.raises(ValueError, match="order is -1"):
        hill_number(load, -1)


def test_percentiles_are_values_of_real_layers_and_show_the_collapsed_one():
    values = jnp.asarray([[0.1, 9.0, 0.2, 0.3], [1.0, 1.0, 2.0, 1.0]])
    got = percentiles_over_layers(values, (0, 50, 100))
    assert got.shape == (2, 3)
    assert set(np.asarray(got[0])) <= set(np.asarray(values[0]))
    assert got[0, -1] == 9 and got[1].tolist() == [1, 1, 2]


def test_derivatives_with_a_dead_expert_are_finite_and_right():
    """Against central differences in the living experts; and at an even load, where they are 0."""
    load = np.array([3.0, 0.0, 5.0, 2.0])

    @jax.jit
    @partial(jax.jacrev, has_aux=True)
    def slopes(values):
        found = measure_balance(values)
        three = found.entropy, found.effective_experts, found.coefficient_of_variation
        return three, three

    got, _ = slopes(load)
    for expert in (0, 2, 3):
        step = 1e-5 * np.eye(4)[expert]
        above, below = (np.asarray(slopes(load + s * step)[1]) for s in (1, -1))
        slope = np.array([one[expert] for one in got])
        np.testing.assert_allclose(slope, (above - below) / 2e-5, rtol=0, atol=1e-8)
    assert all(np.isfinite(one).all() for one in got)
    for one in slopes(np.ones(4))[0]:
        np.testing.assert_allclose(one, 0, atol=1e-15)


def test_no_token_gives_nan_not_zero():
    silent = measure(np.array([[0.0, 0, 0, 0], [0.0, 0, 2, 1]]))
    assert np.isnan([silent.gini[0], silent.max_violation[0], silent.entropy[0]]).all()
    assert silent.dead_experts.tolist() == [-1, 2]
    assert np.isnan(hill_number(jnp.zeros(4), 0.0))


@pytest.mark.parametrize(("tokens", "top_k", "experts"), [(2048, 8, 64), (512, 2, 8), (300, 1, 2)])
def test_floor_is_the_mean_of_random_choices(tokens, top_k, experts):
    draw = np.random.default_rng(0)
    noise = draw.random((400, tokens, experts), dtype=np.float32)
    chosen = np.argpartition(noise, top_k, -1)[..., :top_k].reshape(400, -1)
    count = np.stack([np.bincount(c, minlength=experts) for c in chosen])
    relative = count / count.mean(-1, keepdims=True) - 1
    for got, want in [
        (max_violation_floor(tokens, top_k, experts), relative.max(-1)),
        (max_absolute_violation_floor(tokens, top_k, experts), np.abs(relative).max(-1)),
        (load_noise(tokens, top_k, experts) ** 2, (relative**2).mean(-1)),
    ]:
        error = 4 * want.std() / np.sqrt(len(want)) + 0.03 * want.mean()  # skewness
        assert abs(got - want.mean()) < error


def test_floor_loads_no_jax():
    code = (
        "import sys\nfrom mfgjax.metrics.sampling_floor import max_violation_floor\n"
        "assert max_violation_floor(2048, 8, 64) > 0.1\nassert 'jax' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
