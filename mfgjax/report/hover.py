"""Pictures of a report whose every value can be read: where things are, for the template to draw.

Heat maps are tables of numbers on colours. Lines are SVG whose marks tell their values to a pointer,
with the same values in a table that opens by key or touch. No script: the report runs nothing.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from mfgjax.report.section import HeatMap, Lines
from mfgjax.report.tables import cell

WIDTH, LEFT, RIGHT, TOP, TALL = 760, 60, 10, 26, 190
_APART = 5
"""Pixels between the marks of two series that do not follow a line."""


def drawable(picture: HeatMap | Lines) -> dict[str, Any]:
    """What `report.html.j2` needs to draw it."""
    return _heat_map(picture) if isinstance(picture, HeatMap) else _lines(picture)


def _heat_map(picture: HeatMap) -> dict[str, Any]:
    values = np.asarray(picture.values, float)
    reach = float(np.max(np.abs(values), initial=0, where=np.isfinite(values)))
    digits = 0 if reach >= 1000 else 1 if reach >= 10 else 2
    rows = [
        (name, [_cell(value, reach, digits) for value in row])
        for name, row in zip(picture.rows, values, strict=True)
    ]
    return {"kind": "heat", "label": picture.label, "columns": picture.columns, "rows": rows}


def _cell(value: float, reach: float, digits: int) -> tuple[str, str, str]:
    """Text, colour of the cell and colour of the text."""
    if not np.isfinite(value):
        return cell(value), "#BBBBBB", "#222"
    colour = colormaps["PuOr_r"](0.5 + value / (2 * reach or 1))
    dark = np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.45
    text = f"{value:.{digits}f}".replace("-", "−")
    return text, to_hex(colour), "#fff" if dark else "#222"


def _lines(picture: Lines) -> dict[str, Any]:
    columns = list(map(str, picture.columns))
    step = (WIDTH - LEFT - RIGHT) / len(columns)
    low, high = picture.ends or _ends(picture.series)
    span = (high - low) or 1.0

    def y(value: float) -> float:
        return round(TOP + TALL * (high - min(max(value, low), high)) / span, 1)

    def x(index: int, shift: float = 0) -> float:
        return round(LEFT + (index + 0.5) * step + shift, 1)

    drawn, told = [], {}
    for number, (name, (value, band)) in enumerate(picture.series.items()):
        known = [j for j in range(len(columns)) if np.isfinite(value[j])]
        shift = 0 if picture.joined else _APART * (2 * number - 1)
        ends: dict[int, tuple[float, float]] = {}
        if band is not None:
            ends = {j: (band[j, 0], band[j, 1]) for j in known if not np.isnan(band[j]).any()}
        told[name] = [cell(float(v)) for v in value]
        for j, (a, b) in ends.items():
            told[name][j] += f" [{cell(float(a), 3)}, {cell(float(b), 3)}]"
        around = [(x(j), y(a)) for j, (a, _) in ends.items()]
        around += [(x(j), y(b)) for j, (_, b) in reversed(ends.items())]
        drawn.append(
            {
                "name": name,
                "band": around if picture.joined else [],
                "bars": []
                if picture.joined
                else [(x(j, shift), y(a), y(b)) for j, (a, b) in ends.items()],
                "line": [(x(j), y(value[j])) for j in known] if picture.joined else [],
                "marks": [
                    (x(j, shift), y(value[j]), f"{columns[j]}: {name} {told[name][j]}")
                    for j in known
                ],
            }
        )
    every = max(1, round(60 / step))
    return {
        "kind": "lines",
        "label": picture.label,
        "series": drawn,
        "zero": y(0),
        "bounds": [(y(v), cell(v, 3)) for v in (low, high)],
        "ticks": [(x(j), columns[j]) for j in range(0, len(columns), every)],
        "ribbon": _ribbon(picture.phases, step),
        "columns": columns,
        "told": told | ({"phase": list(picture.phases)} if picture.phases else {}),
    }


def _ends(series: Mapping[str, tuple[np.ndarray, np.ndarray | None]]) -> tuple[float, float]:
    """Of all values and bands, and 0."""
    parts = [np.ravel(v) for pair in series.values() for v in pair if v is not None]
    every = np.append(np.concatenate(parts), 0.0)
    every = every[np.isfinite(every)]
    return float(every.min()), float(every.max())


def _ribbon(phases: Sequence[str], step: float) -> list[tuple[float, float, str]]:
    """Left end, width and name of each run of one phase."""
    starts = [i for i, name in enumerate(phases) if i == 0 or phases[i - 1] != name]
    return [
        (round(LEFT + a * step, 1), round((b - a) * step, 1), str(phases[a]))
        for a, b in pairwise([*starts, len(phases)])
    ]
