"""The simulated run says the truth, and the fits find it again."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.estimate import fit_texts, unit_weights
from mfgjax.estimate.inference.sandwich import sandwich_error
from mfgjax.estimate.inference.weights import jackknife_groups, leave_out_weights
from mfgjax.simulate.sweep import TRUTH, SimulatedRun, simulate_sweep
from mfgjax.trace import read_sweep

RUN = SimulatedRun(congestion=(0, 15), steps=(0, 100))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("known")
    simulate_sweep(folder, RUN)
    return folder, read_sweep(folder)


def test_truth_is_an_equilibrium(sweep):
    folder, _ = sweep
    truth = json.loads((folder / TRUTH).read_text())
    assert truth["settings"]["congestion"] == [0, 15]
    for checkpoint in truth["checkpoints"]:
        assert (folder / checkpoint["trace"]).is_file()
        load, gamma = np.array(checkpoint["load"]), np.array(checkpoint["congestion"])
        score = np.array(checkpoint["quality"]) - gamma[:, None] * load
        response = np.exp(score) / np.exp(score).sum(-1, keepdims=True)
        np.testing.assert_allclose(response, load, atol=1e-6)  # float32


def test_the_fit_finds_the_truth_within_its_error(sweep):
    _, read = sweep
    for index, truth in enumerate(RUN.congestion):
        statistics = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), read.statistics)  # noqa: B023
        fit = fit_texts(statistics, "kl")
        assert bool(fit.converged.all())
        # Four standard errors, and the attenuation by sampling noise in the load: a few percent.
        assert np.all(np.abs(fit.congestion - truth) < 4 * fit.standard_error + 0.05 * truth)
        # Leaving texts out and differentiating in their weights measure the same error.
        _, smooth = jax.jit(sandwich_error)(statistics, unit_weights(RUN.texts))
        np.testing.assert_allclose(fit.standard_error, smooth[0], rtol=0.1)


def test_equal_seeds_give_equal_traces(sweep, tmp_path):
    folder, _ = sweep
    simulate_sweep(tmp_path, RUN)
    for path in folder.glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_groups_leave_every_text_out_once():
    weights = leave_out_weights(jackknife_groups(10, most=4))
    assert weights.shape == (4, 10)
    np.testing.assert_array_equal((1 - weights).sum(0), 1)
    np.testing.assert_array_equal(leave_out_weights(jackknife_groups(3)), 1 - np.eye(3))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"congestion": (1,)}, "one of each"),
        ({"steps": (5, 5)}, "must increase"),
        ({"top_k": 16}, "between 1 and experts - 1"),
        ({"dispersion": float("nan")}, "dispersion is nan"),
    ],
)
def test_settings_that_do_not_fit_are_explained(settings, words):
    with pytest.raises(ValueError, match=words):
        SimulatedRun(**({"congestion": (0, 15), "steps": (0, 100)} | settings))


def test_a_folder_with_traces_and_too_large_a_top_k_are_refused(sweep, tmp_path):
    with pytest.raises(ValueError, match="holds traces already"):
        simulate_sweep(sweep[0], RUN)
    crowded = dataclasses.replace(RUN, load_spread=1.5)
    with pytest.raises(ValueError, match="lower top_k"):
        simulate_sweep(tmp_path, crowded)
    assert not list(tmp_path.iterdir())
