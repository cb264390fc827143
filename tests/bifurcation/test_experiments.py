"""Trained two-expert layers on either side of the threshold, and the figures."""

import numpy as np
import xarray as xr
from typer.testing import CliRunner

import mfgjax.bifurcation.atlas as atlas
from mfgjax.bifurcation.datasets import branches_dataset, folds_dataset
from mfgjax.bifurcation.experiments.sweep import blobs_task, digits_task, sweep_strengths
from mfgjax.bifurcation.experiments.trainable_moe import Training
from mfgjax.bifurcation.simulate import Routing
from mfgjax.bifurcation.two_expert_figures import branches_figure, control_plane_figure


def test_trained_layer_is_balanced_below_and_collapsed_above():
    routing = Routing.NOISY_TOP1  # hard routing; softmax takes the same path and as long again
    training = Training(steps=800, step_size=0.1, batch_size=32, routing=routing)
    data = sweep_strengths(blobs_task(), np.array([0.5, 1.6]), seeds=3, training=training)
    below, above = data.sel(strength=0.5), data.sel(strength=1.6)
    assert (below.imbalance < 0.1).all()
    np.testing.assert_allclose(above.imbalance, above.smeared, atol=0.03)
    np.testing.assert_allclose(abs(above.load_gap), above.theory, atol=0.06)  # counting noise
    assert (data.accuracy > 0.7).all()


def test_digits_are_bundled_and_split():
    task = digits_task()
    assert task.inputs.shape == (1347, 64) and task.held_inputs.shape == (450, 64)
    assert float(abs(task.inputs).max()) <= 1.0 and set(np.asarray(task.labels)) == set(range(10))


def test_figures_and_files(tmp_path):
    branches = branches_dataset(strengths=np.linspace(0, 2.5, 41))
    folds = folds_dataset(strengths=np.linspace(1, 2.5, 31))
    paths = atlas._write(tmp_path, "branches", branches_figure(branches), branches)
    paths += atlas._write(tmp_path, "control_plane", control_plane_figure(folds), folds)
    assert sorted(p.suffix for p in paths) == [".nc", ".nc", ".png", ".png", ".svg", ".svg"]
    assert all(path.stat().st_size > 1000 for path in paths)
    back = xr.open_dataset(tmp_path / "branches.nc", engine="h5netcdf")
    np.testing.assert_array_equal(back.load_gap, branches.load_gap)
    assert not list(tmp_path.glob("*.partial"))


def test_command_line(tmp_path, monkeypatch):
    from mfgjax.cli.main import app

    monkeypatch.setattr(atlas, "draw_atlas", lambda out, progress: [out / "branches.png"])
    monkeypatch.setattr(atlas, "draw_experiments", lambda out, seeds, progress: [])
    done = CliRunner().invoke(app, ["bifurcation", "--out", str(tmp_path), "--experiments"])
    assert done.exit_code == 0 and "6.9246" in done.stdout
    monkeypatch.undo()
    monkeypatch.setattr(atlas.importlib.util, "find_spec", lambda name: None)
    missing = CliRunner().invoke(app, ["bifurcation", "--out", str(tmp_path)])
    assert missing.exit_code == 1 and "mfgjax[bifurcation]" in missing.stderr
