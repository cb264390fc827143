"""`bootstrap_texts`: the same bits however many are drawn and on whatever devices; intervals."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mfgjax.estimate import bootstrap_texts, congestion_estimator
from mfgjax.estimate.inference.bootstrap import BLOCK
from mfgjax.estimate.inference.interval import (
    bca_interval,
    percentile_interval,
    simultaneous_band,
    studentized_interval,
)
from mfgjax.estimate.inference.sandwich import sandwich_error
from mfgjax.estimate.inference.weights import resample_weights
from mfgjax.trace.schema import TextStatistics

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("sharded_worker.py")


@pytest.fixture(scope="module")
def statistics():
    """20 texts of 30 tokens, two layers of eight experts; the quality differs between texts."""
    rng = np.random.default_rng(0)
    logits = 1.5 * rng.normal(size=(20, 30, 2, 8)) + 0.1 * rng.normal(size=(20, 1, 2, 8))
    logits = logits + 0.5 * rng.normal(size=(2, 8))
    chosen = logits >= np.sort(logits, axis=-1)[..., -2, None]
    square = (logits - logits.mean(-1, keepdims=True)) ** 2
    odds = np.exp(logits)
    sums = (logits, square, chosen, odds / odds.sum(-1, keepdims=True))
    count = np.full(20, 30, np.float32)
    return TextStatistics(count, *(leaf.sum(1).astype(np.float32) for leaf in sums))


KEY = jax.random.key(2)
COUNT = 4 * BLOCK + 17
ROWS = np.concatenate([np.ones((1, 20)), 1 - np.eye(20)])


@pytest.fixture(scope="module")
def drawn(statistics):
    return bootstrap_texts(statistics, KEY, COUNT, congestion_estimator("kl"))[0]


def test_fewer_resamples_are_the_first_of_many(statistics, drawn):
    fit = congestion_estimator("kl")
    few, _ = bootstrap_texts(statistics, KEY, 3, fit)
    assert drawn.shape == (COUNT, 2)
    np.testing.assert_array_equal(drawn[:3], few)
    assert len(np.unique(drawn[:, 0])) > 0.9 * COUNT  # no block is another's
    with pytest.raises(ValueError, match="raise memory"):
        bootstrap_texts(statistics, KEY, COUNT, fit, memory=1e3)


@pytest.fixture(scope="module")
def in_float64(statistics):
    """A function from 21 weightings to the congestion and its standard error."""
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), statistics)
    error = jax.jit(sandwich_error)
    return lambda weights: jax.device_get(error(wide, np.asarray(weights, np.float64)))


def test_rows_of_our_own_come_first_and_change_no_resample(statistics, drawn, in_float64):
    fit = congestion_estimator("kl")
    count = BLOCK + 3
    both, _ = bootstrap_texts(statistics, KEY, count, fit, rows=ROWS)
    assert both.shape == (21 + count, 2)
    np.testing.assert_array_equal(both[21:], drawn[:count])
    alone, _ = bootstrap_texts(statistics, KEY, 0, fit, rows=ROWS)
    np.testing.assert_array_equal(alone, both[:21])
    with pytest.raises(ValueError, match="257 rows"):
        bootstrap_texts(statistics, KEY, 0, fit, rows=np.ones((BLOCK + 1, 20)))
    # And it is the plain computation.
    weights = np.asarray(resample_weights(KEY, 20, BLOCK))
    np.testing.assert_allclose(in_float64(ROWS)[0], both[:21], rtol=1e-4)
    np.testing.assert_allclose(in_float64(weights[-21:])[0], both[BLOCK:][:21], rtol=1e-4)


def run_workers(processes, devices, statistics, out):
    np.savez(f"{out}.npz", **{f.name: getattr(statistics, f.name) for f in fields(statistics)})
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "PYTHONPATH": str(ROOT),
    }
    port = 20_000 + os.getpid() % 20_000
    running = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(processes), str(port), str(out)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    for process in running:
        text, _ = process.communicate(timeout=240)
        assert process.returncode == 0, text[-3000:]
    return [np.load(f"{out}.{rank}.npz") for rank in range(processes)]


def test_devices_and_processes_give_the_same_bits(statistics, drawn, tmp_path):
    for found in run_workers(2, 2, statistics, tmp_path / "out"):
        facts = json.loads(str(found["facts"]))
        assert facts == {"devices": 4, "processes": 2}
        np.testing.assert_array_equal(found["sharded"], drawn[: len(found["sharded"])])


def test_bootstrap_t_of_skewed_data_reaches_further_on_the_long_side():
    rng = np.random.default_rng(0)
    data = rng.exponential(size=25)
    drawn = data[rng.integers(0, 25, size=(20_000, 25))]
    found = studentized_interval(data.mean(), data.std() / 5, drawn.mean(1), drawn.std(1) / 5)
    left_out = (data.sum() - data) / 24
    assert found[1] > bca_interval(data.mean(), drawn.mean(1), left_out)[1]


def test_paired_differences_are_shorter_and_bands_hold_the_whole_path():
    rng = np.random.default_rng(2)
    common = rng.normal(size=(4000, 1))
    path = jnp.asarray(common + 0.1 * rng.normal(size=(4000, 12)))
    lower, upper = percentile_interval(path[:, 1] - path[:, 0])
    alone = percentile_interval(path[:, 0])
    assert float(upper - lower) < 0.2 * float(alone[1] - alone[0])
    independent = jnp.asarray(rng.normal(size=(4000, 12)))
    low, high = simultaneous_band(jnp.zeros(12), independent)
    inside = np.asarray((independent >= low[None]) & (independent <= high[None]))
    assert inside.all(-1).mean() == pytest.approx(0.95, abs=0.01)
    # Twelve independent steps: Sidak's quantile.
    assert float(high[0]) == pytest.approx(stats.norm.isf((1 - 0.95 ** (1 / 12)) / 2), rel=0.05)


def test_sandwich_is_the_infinitesimal_jackknife(in_float64):
    """Its influence agrees with leaving texts out."""
    found, error = in_float64(ROWS)
    left_out = found[1:]
    jackknife = np.sqrt(((left_out - left_out.mean(0)[None]) ** 2).sum(0) * 19 / 20)
    np.testing.assert_allclose(error[0], jackknife, rtol=0.15)
