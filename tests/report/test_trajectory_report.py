"""Labels, tables, files and the figure say what the numbers are."""

import dataclasses
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure
from rich.console import Console

import mfgjax
from mfgjax.report import plot_heat_map, plot_layers, plot_trajectory
from mfgjax.report.dataset import _equal_texts
from mfgjax.report.export import export_trajectory, trajectory_json
from mfgjax.report.figures import trajectory_figure
from mfgjax.report.plot import layer_colour, layer_labels
from mfgjax.report.reference import published_table
from mfgjax.report.trajectory_table import remarks, trajectory_table
from mfgjax.trace import read_trace, write_trace


@pytest.fixture(scope="module")
def dataset(sweep_folder):
    return mfgjax.track(sweep_folder, resamples=40, confidence=0.9, interval="percentile")


def test_labels(dataset):
    assert dataset.congestion.dims == ("checkpoint", "layer")
    assert dataset.congestion_resamples.dims == ("resample", "checkpoint", "layer")
    assert dataset.congestion_interval.dims == ("checkpoint", "layer", "bound")
    assert dataset.checkpoint.values.tolist() == ["0", "100", "300", "1000", "3000", "6000"]
    assert dataset.layer.values.tolist() == ["layers.0.gate", "layers.1.gate"]
    assert dataset.attrs["confidence"] == 0.9
    assert "Definition 3.1" in dataset.congestion.attrs["long_name"]


def test_intervals_are_quantiles_of_the_resamples(dataset):
    want = np.quantile(dataset.congestion_resamples, [0.05, 0.95], axis=0)
    np.testing.assert_allclose(
        np.moveaxis(dataset.congestion_interval.values, -1, 0), want, rtol=1e-6
    )
    mean = np.quantile(dataset.signed_resamples.mean("layer"), [0.05, 0.95], axis=0)
    np.testing.assert_allclose(dataset.mean_signed_interval.values.T, mean, rtol=1e-5)


def test_critical_congestion(dataset):
    np.testing.assert_allclose(
        dataset.critical_congestion, 16 / 15 * dataset.quality_spread, rtol=1e-6
    )
    margin = dataset.congestion / dataset.critical_congestion
    np.testing.assert_allclose(dataset.safety_margin, margin, rtol=1e-6)


def test_files_agree(dataset, tmp_path):
    paths = {p.name: p for p in export_trajectory(dataset, tmp_path / "out")}
    assert set(paths) == {
        "trajectory.csv",
        "layers.csv",
        "trajectory.json",
        "trajectory.nc",
        "trajectory.png",
        "trajectory.svg",
        "trajectory.pdf",
    }
    with xr.open_dataset(paths["trajectory.nc"], engine="h5netcdf") as stored:
        xr.testing.assert_equal(stored.congestion, dataset.congestion)
        assert stored.attrs["model"] == "simulated"
    rows = pd.read_csv(paths["trajectory.csv"])
    np.testing.assert_allclose(rows.mean_congestion, dataset.mean_congestion, rtol=1e-6)
    np.testing.assert_allclose(
        rows.mean_congestion_low, dataset.mean_congestion_interval.sel(bound="low"), rtol=1e-6
    )
    layers = pd.read_csv(paths["layers.csv"])
    assert len(layers) == dataset.congestion.size
    assert set(layers.status) == {"CONVERGED"} and "7 UNIDENTIFIED" in dataset.status.long_name
    stored = json.loads(paths["trajectory.json"].read_text())
    assert [r["phase"] for r in stored["checkpoints"]] == dataset.phase.values.tolist()
    assert not list(paths["trajectory.csv"].parent.glob("*.partial"))


def test_an_interval_without_end_is_null_in_json_and_inf_in_csv(dataset, tmp_path):
    """Where noise outweighs the signal, as in a router whose load is nearly even."""
    endless = dataset.copy(deep=True)
    endless.signed_interval[0, 0, 0] = -np.inf
    export_trajectory(endless, tmp_path)
    found = json.loads((tmp_path / "trajectory.json").read_text())
    assert found["layers"][0]["signed_low"] is None
    assert found["layers"][0]["signed_high"] is not None
    assert pd.read_csv(tmp_path / "layers.csv").signed_low[0] == -np.inf


def test_json_has_no_nan(dataset):
    broken = dataset.copy(deep=True)
    broken["mean_congestion"][0] = np.nan
    text = json.dumps(trajectory_json(broken), allow_nan=False)
    assert json.loads(text)["checkpoints"][0]["mean_congestion"] is None


def test_the_table_has_eight_columns_with_intervals_beside_estimates(dataset):
    table = trajectory_table(dataset, 200)
    assert len(table.columns) == 8
    cells = dict(zip([c.header for c in table.columns], table.columns, strict=True))
    first, row = list(cells["γ_eff"].cells)[-1], dataset.isel(checkpoint=-1)
    low, high = row.mean_congestion_interval.values
    assert first == f"{float(row.mean_congestion):.1f} \\[{low:.1f}, {high:.1f}]"
    per_cent = list(cells["per 1% scale"].cells)[-1]
    assert per_cent == f"{float(row.scale_sensitivity.mean()) / 100:.2f}"


@pytest.mark.parametrize("width", [40, 60, 90, 140])
def test_table_fits_the_terminal(dataset, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(trajectory_table(dataset, width))
        text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for label in ("γ_eff", "phase", "6000"):
        assert label in text


def test_no_phases_without_steps(sweep_folder, tmp_path):
    """The same traces, whose names and metadata no longer tell their order."""
    for number, path in enumerate(sorted(sweep_folder.glob("*.statistics.safetensors"))):
        trace = read_trace(path)
        metadata = dataclasses.replace(trace.metadata, revision=f"x{number}", step=None)
        unknown = dataclasses.replace(trace, metadata=metadata)
        write_trace(tmp_path / f"x{number}.statistics.safetensors", unknown)
    dataset = mfgjax.track(tmp_path, resamples=40, confidence=0.9, interval="percentile")
    assert "phase" not in dataset
    notes = remarks(dataset)
    assert any("6 of 6 checkpoints state no step" in note for note in notes)
    assert not any(note.startswith("No phases are claimed") for note in notes)
    found = export_trajectory(dataset, tmp_path / "out")
    assert "phase" not in pd.read_csv(found[0]).columns


def test_remarks_name_the_boundary(dataset):
    on_boundary = int(dataset.at_boundary.sum())
    assert on_boundary > 0
    assert any(
        f"{on_boundary} of 12 estimates sit on the boundary" in note for note in remarks(dataset)
    )


def test_names_are_shown_as_they_are(dataset):
    """Square brackets are markup to rich: a closing tag without an opening one raised."""
    named = dataset.assign_attrs(model="a[/b]", texts=50).assign_coords(
        checkpoint=[f"step[/{n}]" for n in range(dataset.checkpoint.size)]
    )
    console = Console(width=120)
    with console.capture() as captured:
        console.print(trajectory_table(named))
    shown = captured.get()
    assert shown.lstrip().startswith("a[/b]: M = 16")
    assert "step[/0]" in shown


def test_a_few_long_texts_are_few(dataset):
    tokens = np.array([1, 1, 1, 1, 16.0])
    assert _equal_texts(tokens) == pytest.approx(400 / 260)
    assert dataset.equal_texts == pytest.approx(dataset.texts)
    for equal, told in ((50.0, False), (9.0, True)):
        said = " ".join(remarks(dataset.assign_attrs(texts=50, equal_texts=equal)))
        assert ("weigh as 9 of one length" in said) == told


def test_few_resamples_are_said_to_be_few(dataset):
    for resamples, told in ((1, True), (19, True), (20, False)):  # at 90%
        said = " ".join(remarks(dataset.assign_attrs(resamples=resamples)))
        assert ("resamples are too few for 90%" in said) == told


def test_figure_shows_both_estimates_the_null_and_every_layer(dataset):
    figure = trajectory_figure(dataset)
    labels = [text for ax in figure.axes for text in ax.get_legend_handles_labels()[1]]
    wanted = {"layer average", "layer 0", "layer 1", "signed (KL)", "dispersion null"}
    assert wanted <= set(labels)
    drawn = figure.axes[1].lines[0].get_ydata()
    np.testing.assert_allclose(drawn, dataset.mean_signed)
    for index in (0, 1):
        line = figure.axes[0].lines[index]
        np.testing.assert_array_equal(line.get_ydata(), dataset.congestion[:, index])
    assert len({line.get_color() for line in figure.axes[0].lines}) == 3


def test_layers_keep_colours_of_their_own():
    for layers in (1, 8, 9, 64):
        colours = [layer_colour(index, layers) for index in range(layers)]
        assert len(set(colours)) == layers
        named = [label for label in layer_labels(layers).values() if label]
        assert len(named) == (layers if layers <= 8 else 5)


def test_a_result_plots_in_one_line_on_axes_of_the_callers(dataset):
    axes = plot_trajectory(dataset)
    try:
        assert axes.lines[-1].get_ydata() == pytest.approx(dataset.mean_congestion.values)
    finally:
        plt.close(axes.figure)
    figure = Figure()
    mine = figure.subplots()
    assert plot_layers(dataset, mine, checkpoint=3) is mine
    np.testing.assert_array_equal(mine.lines[1].get_ydata(), dataset.signed[3])
    panel = plot_heat_map(dataset, figure.subplots(), "dispersion_excess")
    np.testing.assert_allclose(panel.images[0].get_array(), dataset.dispersion_excess.T)


def test_one_checkpoint_is_its_layers_not_a_dot(dataset):
    figure = trajectory_figure(dataset.isel(checkpoint=[3]))
    (panel,) = figure.axes
    np.testing.assert_array_equal(panel.lines[0].get_ydata(), dataset.congestion[3])
    low, high = dataset.signed_interval[3].values.T
    bars = panel.collections[1].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], np.stack([low, high], -1))


def test_no_resamples_no_intervals(sweep_folder):
    dataset = mfgjax.track(sweep_folder, resamples=0)
    assert "congestion_interval" not in dataset
    assert "mean_congestion" in dataset
    trajectory_figure(dataset)


@pytest.mark.parametrize(
    ("name", "value"), [("resamples", -1), ("confidence", 1.5), ("confidence", 0)]
)
def test_settings_out_of_range(sweep_folder, name, value):
    with pytest.raises(ValueError, match=name):
        mfgjax.track(sweep_folder, **{name: value})


def test_published_tables_say_what_there_is():
    assert published_table("table4_heldout_l1")["layer"].tolist() == list(range(16))
    with pytest.raises(KeyError, match="table6_cross_architecture"):
        published_table("table9")
