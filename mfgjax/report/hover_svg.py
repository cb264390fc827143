"""Small inline SVG pictures whose marks tell their values when the pointer rests on them.

Native `<title>` elements do the work: no script, so the report stays one file that runs nothing.
"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from mfgjax.report.trajectory_figure import BLUE, PHASE_COLOURS, VERMILION

_WIDTH, _LEFT, _RIGHT = 760, 150, 10


def heat_map_svg(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], label: str
) -> str:
    """A grid of cells, rows by columns, coloured from purple (negative) over white to orange.

    Args:
        values: `[row, column]`; NaN is drawn grey.
        rows: names of the rows.
        columns: names of the columns.
        label: what the values are, for the hover text and for readers without sight.
    """
    height, top = 22, 6
    step = (_WIDTH - _LEFT - _RIGHT) / len(columns)
    reach = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
    parts = []
    for i, row in enumerate(rows):
        y = top + i * height
        parts.append(_text(_LEFT - 6, y + 15, row, "end"))
        for j, column in enumerate(columns):
            value = float(values[i, j])
            colour = to_hex(colormaps["PuOr_r"](0.5 + value / (2 * reach or 1)))
            fill = colour if np.isfinite(value) else "#BBBBBB"
            hover = f"{row}, {column}: {label} {value:.4g}"
            parts.append(_rect(_LEFT + j * step, y, step, height, fill, hover))
    bottom = top + len(rows) * height
    every = max(1, round(55 / step))
    for j in range(0, len(columns), every):
        parts.append(_text(_LEFT + (j + 0.5) * step, bottom + 16, columns[j], "middle"))
    scale = f"white 0, darkest orange {reach:.3g}, darkest purple {-reach:.3g}"
    parts.append(_text(_WIDTH - _RIGHT, bottom + 34, scale, "end"))
    return _svg(parts, bottom + 40, f"heat map of {label}")


def ribbon_svg(phases: Sequence[str], probability: np.ndarray, columns: Sequence[str]) -> str:
    """The phase of each checkpoint as a ribbon; hover for its probability."""
    step = (_WIDTH - _LEFT - _RIGHT) / len(columns)
    parts, names = [], [_text(_LEFT - 6, 21, "phase", "end")]
    for j, (phase, share, column) in enumerate(zip(phases, probability, columns, strict=True)):
        colour = PHASE_COLOURS.get(phase, "#FFFFFF")
        hover = f"{column}: {phase}, probability {float(share):.2f}"
        parts.append(_rect(_LEFT + j * step, 6, step, 22, colour, hover))
        if j == 0 or phases[j - 1] != phase:
            names.append(_text(_LEFT + j * step + 3, 21, phase, "start"))
    return _svg(parts + names, 34, "phase of each checkpoint")


def lines_svg(
    series: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    columns: Sequence[str],
    label: str,
    ends: tuple[float, float] | None = None,
) -> str:
    """Up to two lines with bands over equally spaced checkpoints; hover for value and interval.

    Args:
        series: name to `(value, interval)`, `[column]` and `[column, 2]` or None.
        columns: names of the checkpoints.
        label: of the values.
        ends: of the axis, which cut what is beyond them (the hover text does not); all of the bands
            unless given.
    """
    top, tall = 24, 190
    step = (_WIDTH - _LEFT - _RIGHT) / len(columns)
    stacked = [v for value, band in series.values() for v in (value, band) if v is not None]
    every = np.concatenate([np.ravel(v) for v in stacked])
    every = np.append(every[np.isfinite(every)], 0.0)
    low, high = (every.min(), every.max()) if ends is None else ends
    span = (high - low) or 1.0

    def y(value: float) -> float:
        return top + tall * (high - min(max(value, low), high)) / span

    def x(index: int) -> float:
        return _LEFT + (index + 0.5) * step

    parts = [
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="#999"/>'
    ]
    for value in (low, high):
        parts.append(_text(_LEFT - 6, y(value) + 4, f"{value:.3g}", "end"))
    for number, (name, (value, band)) in enumerate(series.items()):
        colour = (BLUE, VERMILION)[number % 2]
        known = [j for j in range(len(columns)) if np.isfinite(value[j])]
        if band is not None:
            around = [(x(j), y(band[j, 0])) for j in known]
            around += [(x(j), y(band[j, 1])) for j in reversed(known)]
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in around)
            parts.append(f'<polygon points="{points}" fill="{colour}" opacity="0.2"/>')
        points = " ".join(f"{x(j):.1f},{y(value[j]):.1f}" for j in known)
        dash = ' stroke-dasharray="6 4"' if number else ""
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        )
        for j in known:
            hover = f"{columns[j]}: {name} {value[j]:.4g}"
            if band is not None:
                hover += f" [{band[j, 0]:.4g}, {band[j, 1]:.4g}]"
            parts.append(
                f'<circle cx="{x(j):.1f}" cy="{y(value[j]):.1f}" r="5" fill="{colour}">'
                f"<title>{escape(hover)}</title></circle>"
            )
        parts.append(_text(_LEFT + 220 * number, 14, name, "start", colour))
    for j in range(0, len(columns), max(1, round(55 / step))):
        parts.append(_text(x(j), top + tall + 18, columns[j], "middle"))
    return _svg(parts, top + tall + 26, label)


def _rect(x: float, y: float, width: float, height: float, fill: str, hover: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{fill}"><title>{escape(hover)}</title></rect>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#222") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(str(text))}</text>"


def _svg(parts: list[str], height: float, label: str) -> str:
    return (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {_WIDTH} {height:.0f}">'
        + "".join(parts)
        + "</svg>"
    )
