"""The trajectory stage against a plain NumPy and SciPy loop over the same texts."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm

from mfgjax.dynamics.layer_estimates import estimate_layers
from mfgjax.dynamics.paper_tests import layer_patterns
from mfgjax.dynamics.trajectory import estimate_trajectory
from mfgjax.trace import read_sweep

F32 = 2e-3  # float32 sums of some thousand tokens, then a fit that amplifies them


@pytest.fixture(scope="module")
def sweep(sweep_folder):
    return read_sweep(sweep_folder)


@pytest.fixture(scope="module")
def trajectory(sweep):
    return estimate_trajectory(sweep.statistics, sweep.checkpoints[0].top_k, resamples=40, seed=3)


def softmax(z):
    odds = np.exp(z - z.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def reference(statistics, weights, checkpoint, layer, top_k):
    """Quality, load and the two fits of one layer, from the definitions."""

    def total(leaf):
        return np.tensordot(weights, np.asarray(leaf[checkpoint], dtype=np.float64), axes=1)

    tokens = total(statistics.token_count)
    quality = total(statistics.logit_sum)[layer] / tokens
    counts = total(statistics.dispatch_count)[layer]
    load = counts / counts.sum()
    centred = quality - quality.mean()
    variance = total(statistics.centred_square_sum)[layer] / tokens - centred**2
    grid = np.linspace(0, 200, 200_001)
    residual = np.abs(softmax(quality - grid[:, None] * load) - load).sum(-1)
    signed = minimize_scalar(
        lambda g: -load @ np.log(softmax(quality - g * load)), bounds=(-300, 300), method="bounded"
    )

    def condition(congestion, scale):
        return load @ (load - softmax(scale * quality - congestion * load))

    steep, flat = (brentq(condition, -300, 300, args=(c,), xtol=1e-10) for c in (1.001, 0.999))
    experts = len(load)
    z = norm.isf(top_k / experts)
    hazard = norm.pdf(z) / norm.sf(z)
    return {
        "congestion": grid[residual.argmin()],
        "residual": residual.min(),
        "signed": signed.x,
        "scale_sensitivity": (steep - flat) / 0.002,
        "dispersion_null": experts * (np.sqrt(variance.sum() / (experts - 1)) / hazard - 1),
        "quality_spread": np.ptp(quality),
        "entropy": -(load * np.log(load)).sum() / np.log(experts),
    }


def test_estimates_match_the_definitions(sweep, trajectory):
    top_k = sweep.checkpoints[0].top_k
    for checkpoint in (0, 3, 5):
        for layer in (0, 1):
            want = reference(sweep.statistics, np.ones(12), checkpoint, layer, top_k)
            for name, value in want.items():
                got = getattr(trajectory.estimate, name)[checkpoint, layer]
                assert got == pytest.approx(value, rel=F32, abs=5 * F32), (name, checkpoint, layer)


def test_a_resample_is_the_estimate_of_reweighted_texts(sweep):
    """Doubling one text and dropping another equals the same texts copied and cut by hand."""
    weights = np.ones(12, dtype=np.float32)
    weights[2], weights[5] = 2, 0
    one = read_sweep_checkpoint(sweep, 3)
    got = estimate_layers(one, jnp.asarray(weights)[None], sweep.checkpoints[0].top_k)
    want = reference(sweep.statistics, weights, 3, 1, sweep.checkpoints[0].top_k)
    assert float(got.congestion[0, 1]) == pytest.approx(want["congestion"], rel=F32, abs=5 * F32)
    assert float(got.signed[0, 1]) == pytest.approx(want["signed"], rel=F32, abs=5 * F32)


def read_sweep_checkpoint(sweep, index):
    import jax

    return jax.tree.map(lambda leaf: leaf[index], sweep.statistics)


def test_one_program_gives_what_each_fit_gives_by_itself(sweep, trajectory):
    """All texts are fitted beside the resamples: Definition 3.1 from 0 with its minima, and from below."""
    for checkpoint in range(6):
        one = read_sweep_checkpoint(sweep, checkpoint)
        alone = estimate_layers(one, jnp.ones((1, 12), jnp.float32), sweep.checkpoints[0].top_k)
        for name in ("congestion", "unclipped", "residual", "signed"):
            got = getattr(trajectory.estimate, name)[checkpoint]
            np.testing.assert_allclose(got, getattr(alone, name)[0], rtol=F32, atol=F32)
        for name in ("minima", "at_boundary", "status", "dead_experts"):
            got = getattr(trajectory.estimate, name)[checkpoint]
            np.testing.assert_array_equal(got, getattr(alone, name)[0])
    assert (trajectory.resampled.minima == 1).all()


def test_shapes_seeds_and_progress(sweep, trajectory):
    seen = []

    def progress(items):
        for item in items:
            seen.append(item)
            yield item

    again = estimate_trajectory(
        sweep.statistics, sweep.checkpoints[0].top_k, resamples=40, seed=3, progress=progress
    )
    assert seen == list(range(6))
    assert trajectory.resampled.congestion.shape == (40, 6, 2)
    assert trajectory.estimate.congestion.shape == (6, 2)
    np.testing.assert_array_equal(again.resampled.signed, trajectory.resampled.signed)
    other = estimate_trajectory(sweep.statistics, sweep.checkpoints[0].top_k, resamples=40, seed=4)
    assert (other.resampled.signed != trajectory.resampled.signed).any()


def test_the_null_explains_a_router_without_balancing(trajectory):
    """No game in the simulation: the signed estimate follows the dispersion null."""
    signed, null = trajectory.estimate.signed.mean(1), trajectory.estimate.dispersion_null.mean(1)
    assert np.corrcoef(signed, null)[0, 1] > 0.95
    assert np.abs(signed - null).max() < 0.4 * np.ptp(null)


def test_paper_patterns():
    rise_and_fall = np.array([10, 11, 30, 36, 28, 27, 12, 8.0])
    flat = np.full(8, 20.0)
    asleep = np.array([0, 0, 0, 3, 30, 30, 29, 28.0])
    found = layer_patterns(np.stack([rise_and_fall, flat, asleep], axis=1))
    assert found.surge.tolist() == [True, False, True]
    assert found.relaxation.tolist() == [True, False, False]
    assert found.from_zero.tolist() == [False, False, True]


def test_without_resamples_nothing_is_resampled(sweep, trajectory):
    alone = estimate_trajectory(sweep.statistics, sweep.checkpoints[0].top_k, resamples=0)
    np.testing.assert_array_equal(alone.estimate.signed, trajectory.estimate.signed)
    for name in ("congestion", "signed", "dispersion_null"):
        assert getattr(alone.resampled, name).shape == (0, 6, 2)
        assert getattr(alone.left_out, name).shape == (12, 6, 2)


def test_only_what_is_asked_for_is_kept(sweep, trajectory):
    """That memory changes no number: `test_bootstrap.py`."""
    top_k = sweep.checkpoints[0].top_k
    few = estimate_trajectory(sweep.statistics, top_k, resamples=40, seed=3, keep=["congestion"])
    assert few.resampled.entropy.shape == (0, 6, 2)
    np.testing.assert_array_equal(few.resampled.congestion, trajectory.resampled.congestion)


def test_too_little_memory_says_how_much(sweep):
    with pytest.raises(ValueError, match="raise memory"):
        estimate_trajectory(sweep.statistics, 4, resamples=300, memory=1e3)
