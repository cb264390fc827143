"""`mfgjax decomposition` as a user meets it."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

import mfgjax
from mfgjax.cli.main import app
from mfgjax.report.sections.decomposition import decomposition_groups


def test_groups_are_averages_of_layers_and_the_files_are_there(sweep_folder, tmp_path):
    words = ["decomposition", str(sweep_folder), "--resamples", "20", "--out", str(tmp_path)]
    shown = CliRunner().invoke(app, [*words, "--strong", "5", "--level", "0.8", "--json"])
    assert shown.exit_code == 0, shown.output
    tables = json.loads(shown.stdout)["tables"]
    layers = pd.DataFrame(tables["decomposition"]["rows"])
    groups = pd.DataFrame(tables["decomposition_groups"]["rows"]).set_index("group")
    every = groups.loc["all layers"]
    assert every.congestion == pytest.approx(layers.congestion.mean())
    assert every.implicit == pytest.approx(layers.congestion.mean() - 0.01 * 16)
    assert every.dispersion_excess == pytest.approx(layers.dispersion_excess.mean())
    # The one kind of interval, at its level: what the trajectory has for the same average.
    track = mfgjax.track(sweep_folder, resamples=20, confidence=0.8)
    ends = track.mean_congestion_interval[-1].values
    assert [every.congestion_low, every.congestion_high] == pytest.approx(ends, rel=1e-5)
    assert groups.drop("all layers").layer_count.sum() == len(layers)
    strong = layers.congestion[layers.congestion >= 5]
    assert groups.layer_count.get("strong", 0) == len(strong)
    published = pd.DataFrame(tables["published_table5_decomposition"]["rows"])
    assert np.average(published.mean_gamma, weights=published.layer_count) == pytest.approx(18.025)
    for name in tables:
        assert {p.suffix for p in (tmp_path / "tables").glob(f"{name}.*")} == {
            ".csv",
            ".md",
            ".tex",
        }
    assert (tmp_path / "figures" / "decomposition.png").stat().st_size > 10_000


def test_layers_without_congestion_leave_nothing_to_split():
    layers = xr.DataArray(np.zeros((1, 3)), dims=("checkpoint", "layer"))
    names = ("congestion", "signed", "dispersion_null", "dispersion_excess")
    dataset = xr.Dataset(dict.fromkeys(names, layers))
    dataset = dataset.assign_coords(checkpoint=["9"])
    dataset.attrs = {"aux_loss_coef": 0.01, "experts": 64, "confidence": 0.95, "resamples": 0}
    groups = decomposition_groups(dataset).frame.set_index("group")
    assert groups.layers["out of scope"] == "0, 1, 2"
    assert groups.implicit.isna().all() and groups.implicit_over_explicit.isna().all()
