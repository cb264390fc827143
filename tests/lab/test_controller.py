"""The controller on routers whose load is known, and its bound on the gain from the Hessian of the dual."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from benchmarks.studies.controller import known_load
from mfgjax.lab.controller import (
    GAIN,
    cap_load,
    edge_of,
    expected_excess,
    gain_of,
    move_alpha,
    sampling_variance,
    set_congestion,
    start_holding,
)

TOKENS = 4096
DRAW = np.random.default_rng(0)


def router(experts, scale):
    draw = np.random.default_rng((experts, int(10 * scale)))
    return 0.5 * scale * draw.standard_normal(experts), scale * draw.uniform(0.7, 1.3, experts)


def population_load(mean, spread, bias, top_k):
    return known_load(mean, spread, np.broadcast_to(bias, (1, len(mean))), top_k)[0]


def follow(step, mean, spread, top_k, steps=150):
    held, path = start_holding(len(mean)), []
    draw = np.random.default_rng(1)
    jitted = jax.jit(step)
    for _ in range(steps):
        logits = (mean + spread * draw.standard_normal((TOKENS, len(mean)))).astype("f4")
        chosen = np.argpartition(-(logits + np.asarray(held.bias)), top_k, axis=1)[:, :top_k]
        counts = np.bincount(chosen.ravel(), minlength=len(mean)).astype("i4")
        held = jitted(held, counts, logits)
        path.append(held.bias)
    return np.asarray(path, float)


def end_of(*args, **kwargs):
    return follow(*args, **kwargs)[-1]


@pytest.mark.parametrize(("experts", "top_k", "scale"), [(8, 2, 3.0), (32, 1, 0.3)])
def test_holds_its_setpoints_with_one_setting(experts, top_k, scale):
    mean, spread = router(experts, scale)
    before = experts * population_load(mean, spread, 0.0, top_k).max() - 1
    assert before > 0.5
    path = follow(lambda b, c, z: cap_load(b, c, z, top_k, setpoint=0.3), mean, spread, top_k)
    assert (path <= 0).all()
    loads = known_load(mean, spread, path[100::10], top_k)
    # of 32 experts the largest was at 0.32 on average before the setpoint allowed for noise
    assert experts * loads.max(1).mean() - 1 == pytest.approx(0.3, abs=0.01)

    def set_to(b, c, z):
        return set_congestion(b, c, z, top_k, setpoint=20 * scale)

    bias = end_of(set_to, mean, spread, top_k, steps=60)
    load = population_load(mean, spread, bias, top_k)
    slope = -np.polyfit(load, bias, 1)[0]
    assert slope == pytest.approx(20 * scale, rel=0.1)


def test_a_cap_that_does_not_bind_leaves_the_router_alone():
    """Nothing winds up while the router is more even than asked."""
    bias = follow(
        lambda b, c, z: cap_load(b, c, z, 2, setpoint=0.5), np.zeros(8), np.ones(8), 2, steps=30
    )
    assert not bias.any()


@pytest.mark.parametrize(("experts", "top_k"), [(6, 1), (16, 4)])
def test_the_known_load_is_what_sampling_shows(experts, top_k):
    mean, spread = router(experts, 1.0)
    bias, tokens = -DRAW.uniform(0, 1, experts), 100_000
    load = population_load(mean, spread, bias, top_k)
    fine = known_load(mean, spread, bias[None], top_k, points=1000)[0]
    np.testing.assert_allclose(load, fine, atol=1e-6 / experts)
    total = mean + bias + spread * DRAW.standard_normal((tokens, experts))
    chosen = np.argpartition(-total, top_k, axis=1)[:, :top_k]
    sampled = np.bincount(chosen.ravel(), minlength=experts) / (tokens * top_k)
    np.testing.assert_array_less(abs(sampled - load), 4.5 * np.sqrt(load / (tokens * top_k)))


def test_the_noise_that_the_setpoint_allows_for():
    """The largest of n normals by quadrature, and the load of a capped expert by simulation."""
    assert expected_excess(jnp.float32(1), jnp.int32(1)) == 0
    for number in (2, 3, 12, 150):

        def tail(x, number=number):
            return x * number * norm.pdf(x) * norm.cdf(x) ** (number - 1)

        found = expected_excess(jnp.float32(0.25), jnp.int32(number))
        assert float(found) == pytest.approx(0.5 * quad(tail, -9, 9)[0], rel=0.05)
    counts = jnp.full(8, 100, jnp.int32)  # 400 tokens, top-2
    sampled = np.random.default_rng(3).binomial(400, 2 * 1.3 / 8, 100_000) / 100
    assert float(sampling_variance(0.3, counts, 2)) == pytest.approx(sampled.var(), rel=0.02)


def test_noise_left_in_a_held_load_is_that_of_a_filter():
    """g s^2 / (2 - g) at a fixed gain: noise goes into the price with every step, and out of it."""
    counts = jnp.full(8, 5000, jnp.int32)  # so many that the gain stays whole
    logits = jnp.asarray(DRAW.standard_normal((64, 8)), jnp.float32)
    held = start_holding(8)
    step = jax.jit(lambda held: cap_load(held, counts, logits, 2, setpoint=0.3))
    for _ in range(30):
        held = step(held)
    variance = float(sampling_variance(0.3, counts, 2))
    assert held.gain == 1
    assert float(held.noise) == pytest.approx(variance * GAIN / (2 - GAIN), rel=1e-5)


HELD = [jax.jit(step, static_argnames="top_k") for step in (cap_load, set_congestion)]
MOVE = jax.jit(move_alpha)


def test_off_is_exactly_nothing():
    counts, logits = 1000 * np.arange(8, dtype="i4"), DRAW.standard_normal((64, 8)).astype("f4")
    held = start_holding(8)
    for step in HELD:
        for on in (0.0, 1.0):
            bias = step(held, counts, logits, top_k=2, setpoint=0.1, on=on).bias
            assert np.asarray(bias).any() == bool(on)
    alpha, average = jnp.float32(0.01), jnp.full(8, 1 / 8, jnp.float32)
    assert MOVE(alpha, average, counts, setpoint=0.1, on=0.0)[0] == alpha
    moved = alpha
    for _ in range(60):
        moved, average = MOVE(moved, average, counts, setpoint=0.1, on=1.0)
    assert moved > alpha


def test_alpha_stops_at_the_ends_of_its_range():
    uneven, even = np.array([[100, 0, 0, 0], [25, 25, 25, 25]], "i4")
    alpha, average = jnp.float32(0.5), jnp.full(4, 0.25, jnp.float32)
    for _ in range(200):
        alpha, average = MOVE(alpha, average, uneven, setpoint=0.1, on=1.0)
    assert alpha == 1
    for _ in range(100):
        alpha, average = MOVE(alpha, average, even, setpoint=0.1, on=1.0)
    assert alpha < 0.7  # back at once: nothing has wound up


@pytest.mark.parametrize(("experts", "top_k"), [(6, 1), (16, 4)])
def test_every_gain_below_one_is_stable(experts, top_k):
    """Eigenvalues of diag(H)^-1 H are at most 2, by finite differences of a population's load."""
    mean, spread = router(experts, 1.0)
    width = 0.05
    hessian = np.stack(
        [
            population_load(mean, spread, width * e, top_k)
            - population_load(mean, spread, -width * e, top_k)
            for e in np.eye(experts)
        ]
    ) / (2 * width)
    np.testing.assert_allclose(hessian.sum(1), 0, atol=1e-8)  # loads sum to 1
    values = np.linalg.eigvals(hessian / np.diag(hessian)[:, None]).real
    assert values.max() <= 2 + 0.02  # finite width
    assert GAIN * values.max() < 1.02
    logits = (mean + spread * DRAW.standard_normal((TOKENS, experts))).astype("f4")
    found = edge_of(jnp.asarray(logits), jnp.zeros(experts, jnp.float32), top_k)
    np.testing.assert_allclose(found.slope, np.diag(hessian), rtol=0.25)


def test_noise_alone_gets_the_least_gain():
    counts = jnp.full(16, 10, jnp.int32)
    variance = 1 / (16 * counts.sum().astype(jnp.float32))
    draw = np.random.default_rng(2).standard_normal(16).astype("f4")
    noise = jnp.sqrt(variance) * draw
    gain, next_gain = jnp.float32(1), jax.jit(gain_of)
    for _ in range(100):
        gain = next_gain(noise, variance, counts, gain)
    assert gain == pytest.approx(1 / (1 + 100 * GAIN), rel=1e-5)  # the mean of a hundred steps
    assert next_gain(20 * noise, variance, counts, gain) > 0.9
