"""A trajectory as tables: rows for people, rows for machines."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import xarray as xr
from rich.markup import escape
from rich.table import Table

from mfgjax.numerics.status import Status
from mfgjax.price.run_price import PriceState
from mfgjax.report.tables import fitted, fixed


def checkpoint_frame(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per checkpoint: layer averages, intervals, phase."""
    return _frame(
        dataset, [n for n, v in dataset.items() if set(v.dims) <= {"checkpoint", "bound"}]
    )


def layer_frame(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per checkpoint and layer; status and state of the price as words."""
    keep = {"checkpoint", "layer"}
    names = [n for n, v in dataset.items() if keep <= set(v.dims) <= {*keep, "bound"}]
    frame = _frame(dataset, names)
    for name, words in (("status", Status), ("price_state", PriceState)):
        if name in frame:
            frame[name] = [words(int(value)).name for value in frame[name]]
    return frame


def _frame(dataset: xr.Dataset, names: list) -> pd.DataFrame:
    columns: dict[str, xr.DataArray] = {}
    for name in names:
        values = dataset[name]
        if "bound" in values.dims:
            for bound in ("low", "high"):
                label = f"{str(name).removesuffix('_interval')}_{bound}"
                columns[label] = values.sel(bound=bound, drop=True)
        else:
            columns[str(name)] = values
    return xr.Dataset(columns).to_dataframe().reset_index()


def trajectory_table(dataset: xr.Dataset, width: int = 120) -> Table:
    """The layer-averaged trajectory for a terminal of `width` columns; narrow ones get fewer."""
    title = f"{dataset.model}: M = {dataset.experts}, top-{dataset.top_k}, {dataset.texts} texts"
    rows = [dataset.isel(checkpoint=index) for index in range(dataset.checkpoint.size)]
    columns = {name: [cell(row) for row in rows] for name, cell in _columns(dataset).items()}
    return fitted(
        columns, _EXPENDABLE, width, title=title, caption=_caption(dataset), left=["phase"]
    )


_EXPENDABLE = ("H", "B0", "per 1% scale", "over null", "signed γ")
"""Columns to leave out of a narrow terminal, in this order."""
_FEW_TEXTS = 20
_COVERED = (
    (5, "27 to 81% (γ_eff) and 36 to 92% (signed)"),
    (10, "80 to 93% (γ_eff) and 89 to 97% (signed)"),
    (_FEW_TEXTS, "86 to 95% (γ_eff) and 92 to 97% (signed)"),
)
"""By how many texts of one length weigh as unevenly: `python -m benchmarks.studies.coverage_lengths`."""


def _columns(dataset: xr.Dataset) -> dict[str, Callable[[xr.Dataset], str]]:
    plain = dataset.mean_signed
    signed = dataset.mean_corrected.fillna(plain) if _corrected(dataset) else plain
    return {
        "step": lambda row: escape(str(row.checkpoint.item())),
        "γ_eff": lambda row: _estimate(row, "congestion", row.mean_congestion),
        "signed γ": lambda row: _estimate(row, "signed", signed.sel(checkpoint=row.checkpoint)),
        "per 1% scale": lambda row: fixed(row.mean_scale_sensitivity / 100, 2),
        "over null": lambda row: fixed(row.mean_dispersion_excess, 1),
        "B0": lambda row: fixed(row.mean_quality_spread, 2),
        "H": lambda row: fixed(row.mean_entropy, 3),
        "phase": _phase,
    }


def _corrected(dataset: xr.Dataset) -> bool:
    """Whether the intervals are of estimates corrected for the noise of few tokens."""
    return bool(dataset.resamples) and dataset.interval == "corrected"


def remarks(dataset: xr.Dataset) -> list[str]:
    """What a reader of the numbers must know: boundaries, several minima, dead experts, no phases."""
    notes = []
    cells = dataset.congestion.size
    boundary = int(dataset.at_boundary.sum())
    if boundary:
        notes.append(
            f"{boundary} of {cells} estimates sit on the boundary congestion = 0: Definition 3.1 finds "
            "no congestion there. The signed column says how far below zero they are."
        )
    several = int((dataset.minima > 1).sum())
    if several:
        notes.append(
            f"{several} of {cells} residuals have more than one local minimum: a local search could "
            "have returned a wrong one. The values here are global."
        )
    if dataset.resamples:
        notes += _about_intervals(dataset)
    failed = int((dataset.status > 0).sum())
    if failed:
        notes.append(
            f"{failed} of {cells} fits are not certified: see the status column per layer."
        )
    dead = int((dataset.dead_experts > 0).sum())
    if dead:
        notes.append(f"{dead} of {cells} layers have experts that no token chose.")
    layers = dataset.layer.size
    if not dataset.attrs.get("in_order", 1):
        unknown = int(np.isnan(dataset.step).sum())
        notes.append(
            f"The training order is not known: {unknown} of {dataset.step.size} checkpoints state no "
            "step, or two state the same. They are shown by name and no phases are claimed; changes "
            "and the paper's per-layer tests suppose that this is the order."
        )
    surge, relaxation = int(dataset.layer_surge.sum()), int(dataset.layer_relaxation.sum())
    asleep = int(dataset.layer_starts_at_zero.sum())
    if dataset.checkpoint.size > 1:
        notes.append(
            f"The paper's per-layer tests: surge on {surge} of {layers} layers ({asleep} start at zero, "
            f"where any congestion passes), relaxation on {relaxation} of {layers}."
        )
    above = int((dataset.mean_dispersion_excess < 0).sum())
    if above:
        notes.append(
            f"At {above} of {len(dataset.checkpoint)} checkpoints the dispersion null lies above the "
            "signed estimate: dispersion alone would explain more congestion than there is. It assumes "
            "equal Gaussian noise for all experts, which real logits are not."
        )
    if "phase" in dataset:
        if dataset.phase.attrs["noise"] == "unknown":
            notes.append("No phases are claimed: without resamples the noise is not known.")
        elif set(dataset.phase.values) == {"none"}:
            gain = dataset.phase.attrs["gain"]
            notes.append(
                f"No phases are claimed: one constant level explains the trajectory (gain {gain:.1f})."
            )
        elif dataset.phase.attrs["misfit"] > 4:
            notes.append(
                "The four phase shapes fit this trajectory poorly (reduced chi-square "
                f"{dataset.phase.attrs['misfit']:.1f}): read its labels as a rough guide."
            )
    if "price_phase" in dataset:
        notes.append(_about_price_phases(dataset))
    return notes


def _about_price_phases(dataset: xr.Dataset) -> str:
    names, at = dataset.price_phase.values, dataset.checkpoint.values
    if set(names) == {"none"}:
        return "The slope of the price claims no phases: one constant level explains it."
    starts = [i for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    ends = [*(i - 1 for i in starts[1:]), len(names) - 1]
    parts = [f"{names[a]} ({at[a]} to {at[b]})" for a, b in zip(starts, ends, strict=True)]
    return f"Phases of the slope of the price, layer average: {', '.join(parts)}."


def _about_intervals(dataset: xr.Dataset) -> list[str]:
    """What the intervals are of, and when they mislead."""
    notes = []
    if dataset.interval == "corrected":
        moved = float((dataset.mean_corrected - dataset.mean_signed).mean())
        shown = f"{moved:+.1f}" if np.isfinite(moved) else "an unknown amount"
        notes.append(
            "Intervals are of estimates corrected for the noise that few tokens leave in the load; it "
            f"moves the signed average by {shown} here. In simulation a nominal 95% covered 95 to "
            "98% (signed) and 91 to 98% (γ_eff), where percentile intervals covered 0 to 99%; 91 to 94% "
            "for B0."
        )
        lost = int(np.isnan(dataset.corrected).sum())
        if lost:
            notes.append(
                f"{lost} of {dataset.corrected.size} loads differ from uniform by no more than their "
                "noise: no corrected estimate, and intervals without end. More texts would help."
            )
    else:
        interval = dataset.mean_congestion_interval
        low, high = interval.sel(bound="low"), interval.sel(bound="high")
        outside = int(((dataset.mean_congestion < low) | (dataset.mean_congestion > high)).sum())
        notes.append(
            f"Intervals are {dataset.interval}, chosen by hand: with few or short texts they do not cover "
            "the truth (at the paper's size percentile: 0%), because noise in the load pulls the estimate "
            f"down; {outside} of {len(dataset.checkpoint)} layer averages lie outside their own. The "
            "default, corrected, allows for it."
        )
    needed = round(2 / (1 - dataset.confidence))
    if dataset.resamples < needed:
        notes.append(
            f"{dataset.resamples} resamples are too few for {100 * dataset.confidence:g}% intervals of γ_eff, "
            f"which are then too short, and for phases: {needed} are the least, 2000 the default."
        )
    if dataset.texts < _FEW_TEXTS:
        notes.append(
            f"{dataset.texts} texts are few: standard errors from under {_FEW_TEXTS} texts are "
            "rough, and the coverage of the intervals was measured with 50 and 400."
        )
    elif dataset.equal_texts < _FEW_TEXTS:
        covered = next(words for most, words in _COVERED if dataset.equal_texts < most)
        notes.append(
            f"A few long texts hold most tokens: {dataset.texts} texts weigh as {dataset.equal_texts:.0f} of "
            f"one length, and intervals are too short: in simulation with such lengths a nominal 95% "
            f"covered {covered}. Cut long texts before extraction, or use more."
        )
    return notes


def _caption(dataset: xr.Dataset) -> str:
    level = f"{100 * dataset.confidence:g}%"
    spread = f"{level} {dataset.interval} intervals, {dataset.resamples} resamples of the texts"
    quality = "" if dataset.quality == "mean" else f", quality: {dataset.quality}"
    spread = spread if dataset.resamples else "no intervals (0 resamples)"
    signed = "signed γ: corrected for the noise of few tokens; " if _corrected(dataset) else ""
    return (
        f"Layer averages{quality}; {spread}. {signed}per 1% scale: what it rises by if the logits' scale "
        "does by 1%; over null: its excess over the dispersion null."
    )


def _estimate(row: xr.Dataset, name: str, value: xr.DataArray) -> str:
    """An estimate with its interval, where there are resamples."""
    interval = row.get(f"mean_{name}_interval")
    if interval is None:
        return fixed(value, 1)
    low, high = interval.values
    return f"{fixed(value, 1)} \\[{fixed(low, 1)}, {fixed(high, 1)}]"


def _phase(row: xr.Dataset) -> str:
    """The phase, with the share of resamples that agree."""
    if "phase" not in row:
        return "-"
    share = fixed(row.phase_probability, 2)
    return row.phase.item() if share == "-" else f"{row.phase.item()} {share}"
