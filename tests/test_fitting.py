"""`mfgjax.fit` is what the command prints, and what the estimators give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mfgjax
from mfgjax.estimate import fit_texts
from mfgjax.trace import TraceError, read_trace


def test_rows_are_the_fits_of_the_texts(sweep_folder):
    path = sweep_folder / "step3000.statistics.safetensors"
    frame = mfgjax.fit(path, objectives=("kl",), quality="log-probability")
    trace = read_trace(path)
    sums = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), trace.statistics)
    want = fit_texts(sums, "kl", "log-probability")
    np.testing.assert_array_equal(frame.congestion, want.congestion)
    np.testing.assert_array_equal(frame.standard_error, want.standard_error)
    assert frame.layer.tolist() == list(trace.metadata.layers)
    assert set(frame.status) == {"CONVERGED"}
    assert frame.attrs["source"] == str(path) and "12 texts" in frame.attrs["about"]


def test_qualities_and_loads_give_back_the_congestion_they_were_made_with(tmp_path):
    quality, congestion = np.array([1.5, -0.5, 0.25]), 6.0
    load = np.ones(3) / 3
    for _ in range(500):  # the equilibrium, by damped iteration
        odds = np.exp(quality - congestion * load)
        load = 0.9 * load + 0.1 * odds / odds.sum()
    np.savez(tmp_path / "layer.npz", quality=quality, load=load)
    frame = mfgjax.fit(tmp_path / "layer.npz", objectives=["l1", "kl", "equilibrium"])
    np.testing.assert_allclose(frame.congestion, congestion, rtol=1e-6)
    assert jax.config.jax_enable_x64 and frame.congestion.dtype == np.float64


def test_what_cannot_be_fitted_is_told(sweep_folder, tmp_path):
    with pytest.raises(ValueError, match="needs every token"):
        mfgjax.fit(next(sweep_folder.glob("*.statistics.safetensors")), quality="median")
    with pytest.raises(TraceError, match="no such file"):
        mfgjax.fit(tmp_path / "none.csv")
