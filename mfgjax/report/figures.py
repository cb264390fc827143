"""The result of `mfgjax.track` as whole figures."""

import io
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mfgjax.report.plot import (
    GREY,
    WIDTH,
    phase_spans,
    plot_heat_map,
    plot_layers,
    plot_trajectory,
    training_axis,
)
from mfgjax.report.price_plot import plot_price
from mfgjax.report.price_rows import has_price

_FORMATS = {
    "png": (FigureCanvasAgg, 160),
    "svg": (FigureCanvasSVG, 72),
    "pdf": (FigureCanvasPdf, 72),
}
"""Their canvases and dots per inch."""
_LEAST_TOP = 5.0
"""Smallest upper end of the congestion axis: a dormant run must look dormant."""
_LEGEND = 0.2
"""Of that axis: room for the legend above what is drawn."""


def trajectory_figure(dataset: xr.Dataset) -> Figure:
    """Panels over training: Definition 3.1, signed estimate with its null, load and logits.

    Above them the slope of the price beside the mean field, where traces reveal one (`plot_price`). With one
    checkpoint, its layers.

    Args:
        dataset: as `mfgjax.track` returns it.
    """
    name = Path(str(dataset.model)).name
    title = (
        f"{name}: M = {dataset.experts}, top-{dataset.top_k}, {dataset.layer.size} MoE layers, "
        f"{dataset.texts} texts"
    )
    if dataset.checkpoint.size == 1:
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        panel = plot_layers(dataset, figure.subplots())
        panel.set_title(f"{title}, {panel.get_title(loc='left')}", loc="left", fontsize=9)
        _legend_below(figure, panel, columns=4)  # inside it would hide intervals
        return figure
    priced = has_price(dataset)
    # Room between panels: the names of phases stand nearer to their own than to the one above.
    layout = ConstrainedLayoutEngine(h_pad=0.1)
    figure = Figure(figsize=(WIDTH, 11.4 if priced else 8.4), layout=layout)
    heights = (3, 3, 2)
    panels = list(
        figure.subplots(3 + priced, 1, sharex=True, height_ratios=(3,) * priced + heights)
    )
    axes = panels[priced:]
    if priced:
        plot_price(dataset, panels[0]).label_outer()
        panels[0].set_ylabel("congestion: of the price,\nand of the mean field")
    plot_trajectory(dataset, axes[0])
    plot_trajectory(dataset, axes[1], ("signed", "dispersion_null"))
    plot_trajectory(dataset, axes[2], ("dispersion", "quality_spread", "entropy"))
    labels = (
        "effective congestion\n$\\gamma_{eff}\\geq 0$ (Def. 3.1)",
        "signed congestion and\nwhat dispersion explains",
        "router logits\nand load",
    )
    for panel, label in zip(axes, labels, strict=True):
        panel.set_ylabel(label)
        panel.label_outer()
    bottom, top = axes[0].get_ylim()
    top = max(_LEAST_TOP, top + _LEGEND * (top - bottom))
    axes[0].set_ylim(min(0, bottom), top)
    axes[1].axhline(0, color=GREY, lw=0.8)
    axes[2].set_ylim(bottom=0)
    axes[2].legend(frameon=False, fontsize=8, ncols=3, loc="lower right")
    _name_phases(axes[0], dataset)
    if priced:
        _name_phases(panels[0], dataset, "price_phase")
    panels[0].set_title(title, loc="left", fontsize=10, pad=18)  # above the names of the phases
    return figure


def heat_map_figure(dataset: xr.Dataset) -> Figure:
    """Signed congestion of every layer and checkpoint, and what is left of it above the null."""
    height = 1.6 + 0.22 * dataset.layer.size
    figure = Figure(figsize=(WIDTH, 2 * height), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for panel, name in zip(panels, ("signed", "dispersion_excess"), strict=True):
        plot_heat_map(dataset, panel, name)
    panels[0].set_xlabel("")
    return figure


def decomposition_figure(dataset: xr.Dataset) -> Figure:
    """Congestion of the last checkpoint's layers beside its null and the explicit part."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    panel = plot_layers(dataset, figure.subplots())
    explicit = float(dataset.aux_loss_coef) * dataset.experts
    if np.isfinite(explicit):
        label = f"explicit, αM = {explicit:.2f}"
        panel.axhline(explicit, color="black", lw=1, ls=":", label=label)
    _legend_below(figure, panel)
    return figure


def rendered_figure(figure: Figure) -> dict[str, bytes]:
    """The figure in each of `_FORMATS`, laid out by the first."""
    out, own = {}, figure.dpi
    with rc_context({"pdf.fonttype": 42}):  # fonts that journals take
        for end, (canvas, dpi) in _FORMATS.items():
            buffer = io.BytesIO()
            figure.set_dpi(dpi)
            # Not by `savefig`, which draws everything once more to find out what is there.
            getattr(canvas(figure), f"print_{end}")(buffer)
            figure.set_layout_engine("none")  # what was laid out stays
            out[end] = buffer.getvalue()
    figure.set_dpi(own)
    return out


def _legend_below(figure: Figure, panel: Axes, columns: int = 3) -> None:
    """One legend for the figure, from the labels of one panel."""
    if (inside := panel.get_legend()) is not None:
        inside.remove()
    handles, labels = panel.get_legend_handles_labels()
    below = {"frameon": False, "fontsize": 8, "loc": "outside lower center"}
    figure.legend(handles, labels, ncols=columns, **below)


def _name_phases(panel: Axes, dataset: xr.Dataset, of: str = "phase") -> None:
    x, _ = training_axis(dataset.step.values)
    for name, begin, end in phase_spans(x, dataset, of):
        place = panel.transData.transform  # the middle as drawn, whatever the scale
        middle = place([(begin, 0), (end, 0)]).mean(0)
        at = panel.transData.inverted().transform(middle)[0]
        panel.text(at, 1.01, name, transform=panel.get_xaxis_transform(), fontsize=8, ha="center")
