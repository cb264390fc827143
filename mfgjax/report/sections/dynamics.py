"""Congestion over training: layer averages, layers, phases, and what to know about the numbers."""

import numpy as np
import xarray as xr

from mfgjax.report.figures import heat_map_figure, trajectory_figure
from mfgjax.report.inputs import Inputs
from mfgjax.report.section import HeatMap, Picture, Section, Table
from mfgjax.report.trajectory_table import checkpoint_frame, layer_frame, remarks
from mfgjax.report.verdict import estimate, number

_HEAT_MAPS = {
    "congestion": "Effective congestion (Definition 3.1) by layer",
    "signed": "Signed congestion by layer",
    "dispersion_excess": "Excess over the dispersion null by layer",
}

_SCALE = (
    "scale_sensitivity: a logit scale 1% larger, at the same load, moves the signed congestion by a hundredth of "
    "this, about (congestion + M)/100. So at M = 64 the relaxation from 36 to 8.5 in the paper equals a logit scale "
    "that falls by 27%. dispersion_excess is the signed congestion, corrected for few texts, less dispersion_null."
)


def section(inputs: Inputs) -> Section:
    """The trajectory of `mfgjax.track`."""
    dataset = inputs.dataset
    steps = [str(label) for label in dataset.checkpoint.values]
    layers = [f"{i}: {name}"[-24:] for i, name in enumerate(map(str, dataset.layer.values))]
    training = len(steps) > 1
    return Section(
        "Training dynamics" if training else "Layers",
        verdict=_verdict(dataset),
        tables=(
            Table(
                "trajectory",
                "Training dynamics, layer averages" if training else "Layer averages",
                checkpoint_frame(dataset),
                _SCALE,
                shown=(
                    "checkpoint",
                    "mean_congestion",
                    "mean_signed",
                    "mean_scale_sensitivity",
                    "mean_dispersion_excess",
                    "mean_entropy",
                    "phase",
                    "phase_probability",
                ),
                expendable=("mean_scale_sensitivity", "mean_entropy", "phase_probability"),
            ),
            Table(
                "layers",
                "Every checkpoint and layer" if training else "Every layer",
                layer_frame(dataset),
                _SCALE,
                shown=(
                    "checkpoint",
                    "layer",
                    "congestion",
                    "signed",
                    "scale_sensitivity",
                    "dispersion_null",
                    "dispersion_excess",
                    "entropy",
                ),
                expendable=("scale_sensitivity", "entropy", "dispersion_null"),
            ),
        ),
        figures=(
            Picture(
                "trajectory",
                "Effective congestion over training, its null, and the router's logits and load",
                lambda: trajectory_figure(dataset),
                in_page=training,  # else the layers, which the decomposition shows with more
            ),
            Picture(
                "heat_map",
                "Signed congestion by layer and checkpoint, and its excess over the dispersion null",
                lambda: heat_map_figure(dataset),
                in_page=False,
            ),
        ),
        heat_maps=tuple(
            HeatMap(label, dataset[name].transpose("layer", "checkpoint").values, layers, steps)
            for name, label in (_HEAT_MAPS.items() if training else ())
        ),
        notes=tuple(remarks(dataset)),
    )


def _verdict(dataset: xr.Dataset) -> tuple[str, ...]:
    """Where the layer average ends, and how it got there."""
    mean, ends = dataset.mean_congestion.values, dataset.mean_congestion_interval.values
    last = estimate(mean[-1], ends[-1])
    label = dataset.checkpoint.values
    found = (
        f"Effective congestion (Definition 3.1, average of {dataset.layer.size} layers) is {last}"
    )
    if len(mean) == 1:
        return (f"{found}.",)
    highest = int(np.nanargmax(mean)) if np.isfinite(mean).any() else -1
    found += f" at the last checkpoint, {label[-1]}"
    if mean[highest] > mean[-1]:
        found += f"; it was highest at checkpoint {label[highest]}: {number(mean[highest])}"
    return (f"{found}.", *_phases(dataset))


def _phases(dataset: xr.Dataset) -> tuple[str, ...]:
    if "phase" not in dataset:
        return ()
    names = [str(name) for name in dataset.phase.values]
    if set(names) == {"none"}:
        return ("No phases: one constant level explains the trajectory.",)
    starts = [i for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    share = dataset.phase_probability.values
    parts = [f"{names[i]} from {dataset.checkpoint.values[i]} ({share[i]:.0%})" for i in starts]
    return (f"Phases, with the share of resamples that agree: {', '.join(parts)}.",)
