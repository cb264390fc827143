"""The price beside the mean field over training, and the truth where it is known."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from mfgjax.report.plot import BLUE, VERMILION, bare, fit_axis, shade_phases, training_axis

_ROOM = 0.12
"""Of the panel's height, above and below what is drawn."""


def plot_price(dataset: xr.Dataset, ax: Axes) -> Axes:
    """Slope of the price and signed congestion, with intervals, over training.

    Thick: layer averages; thin: the layers' own price slopes; shaded: phases of the price. Intervals without end leave the panel, which
    is fitted to the estimates.

    Args:
        dataset: as `mfgjax.track` returns it; `truth` per checkpoint, where it holds that, is drawn too.
        ax: where to draw.
    """
    x, scale = training_axis(dataset.step.values)
    drawn = [dataset.price_slope.values.ravel()]
    for layer in range(dataset.layer.size):
        ax.plot(x, dataset.price_slope[:, layer], color=VERMILION, lw=0.7, alpha=0.45)
    field = "corrected" if "mean_corrected" in dataset else "signed"
    rows = (
        (field, BLUE, "s", "--", "mean field, signed (null included)"),
        ("price_slope", VERMILION, "o", "-", "slope of the price (thin: layers)"),
    )
    for name, colour, marker, line, label in rows:
        values = dataset[f"mean_{name}"].values
        ax.plot(x, values, line, color=colour, lw=1.8, marker=marker, ms=4, label=label)
        drawn.append(values)
        if f"mean_{name}_interval" in dataset:
            ends = dataset[f"mean_{name}_interval"].values
            _band(ax, x, ends, colour)
    if "truth" in dataset:
        drawn.append(dataset.truth.values)
        ax.plot(x, dataset.truth, ":", color="black", lw=2.2, zorder=5, label="set by hand")
    known = np.concatenate(drawn)
    known = known[np.isfinite(known)]
    low, high = min(0.0, known.min()), max(1.0, known.max())
    fit_axis(ax, x, scale)
    shade_phases(ax, x, dataset, "price_phase")
    ax.set_ylim(low - _ROOM * (high - low), high + 2 * _ROOM * (high - low))
    ax.axhline(0, color="#666666", lw=0.8)
    ax.set_xlabel("training step" if np.isfinite(dataset.step).all() else "checkpoint")
    ax.set_ylabel("congestion")
    ax.legend(frameon=False, fontsize=8, loc="upper left", ncols=3)
    return bare(ax)


def _band(ax: Axes, x: np.ndarray, ends: np.ndarray, colour: str) -> None:
    """Between `ends`; an infinite one leaves the panel, and NaN leaves a gap."""
    far = 1e9
    low, high = np.clip(ends, -far, far).T
    ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
