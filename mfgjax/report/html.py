"""The analysis as one HTML file: no script, no network, pictures and data inside."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import colormaps
from matplotlib.colors import to_hex

from mfgjax.report.analysis import Analysis
from mfgjax.report.files import page_template
from mfgjax.report.section import HeatMap, Section, Table
from mfgjax.report.tables import cell, csv_text, numeric, readable, shown

_MOST_ROWS = 16
"""Rows of a table that stands open; longer ones are folded, and so is what the paper published."""
_MOST_PRINTED = 40
"""Rows of a table that is printed; of longer ones paper names the file."""


def html_report(analysis: Analysis, figures: Mapping[str, bytes]) -> str:
    """The report as text.

    Args:
        analysis: what to report.
        figures: as SVG, by name; those that are missing are left out.
    """
    return page_template("mfgjax.report", "report.html.j2").render(
        model=str(analysis.trajectory.model),
        settings=_settings(analysis.trajectory),
        verdict=analysis.verdict,
        sections=[_section(section, figures) for section in analysis.sections],
    )


def _settings(dataset: xr.Dataset) -> dict[str, str]:
    alpha = float(dataset.aux_loss_coef)
    return {
        "experts": f"{dataset.experts}, top-{dataset.top_k}, {dataset.layer.size} MoE layers",
        "auxiliary loss": "none stated" if np.isnan(alpha) else f"coefficient {alpha:g}",
        "checkpoints": f"{dataset.checkpoint.size}, {dataset.texts} texts",
        "intervals": f"{100 * dataset.confidence:g}% {dataset.interval}, {dataset.resamples} resamples "
        f"of the texts, seed {dataset.seed}",
        "made with": f"{dataset.versions} on {dataset.device}",
    }


def _section(section: Section, figures: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "id": "section-" + section.title.lower().replace(" ", "-"),
        "title": section.title,
        "figures": [
            (picture.caption, _data_uri("image/svg+xml", figures[picture.name]))
            for picture in section.figures
            if picture.in_page and picture.name in figures
        ],
        "heat_maps": [_heat_map(picture) for picture in section.heat_maps],
        "tables": [_table(table) for table in section.tables],
        "notes": section.notes,
        "background": section.background,
    }


def _heat_map(picture: HeatMap) -> dict[str, Any]:
    """A table of numbers on colours: every value can be read, by keys and touch too."""
    values = np.asarray(picture.values, float)
    reach = float(np.max(np.abs(values), initial=0, where=np.isfinite(values)))
    digits = 0 if reach >= 1000 else 1 if reach >= 10 else 2
    rows = [
        (name, [_cell(value, reach, digits) for value in row])
        for name, row in zip(picture.rows, values, strict=True)
    ]
    return {"label": picture.label, "columns": picture.columns, "rows": rows}


def _cell(value: float, reach: float, digits: int) -> tuple[str, str, str]:
    """Text, colour of the cell and colour of the text."""
    if not np.isfinite(value):
        return cell(value), "#BBBBBB", "#222"
    colour = colormaps["PuOr_r"](0.5 + value / (2 * reach or 1))
    dark = np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.45
    text = f"{value:.{digits}f}".replace("-", "−")
    return text, to_hex(colour), "#fff" if dark else "#222"


def _table(table: Table) -> dict[str, Any]:
    every, first = readable(table.frame), shown(table)
    published = table.name.startswith("published_")
    return {
        "name": table.name,
        "title": table.title,
        "note": table.note,
        "published": published,
        "folded": published or len(first) > _MOST_ROWS,
        "long": len(first) > _MOST_PRINTED,
        "count": len(first),
        "first": _grid(first, table.frame),
        "every": _grid(every, table.frame) if every.shape[1] > first.shape[1] else None,
        "csv": _data_uri("text/csv", csv_text(table.frame).encode()),
    }


def _grid(text: pd.DataFrame, frame: pd.DataFrame) -> dict[str, Any]:
    """Headings with their class, and rows of cells."""
    kinds = ["" if numeric(frame, name) else "words" for name in text.columns]
    heads = [str(name).replace("_", " ") for name in text.columns]
    return {"heads": list(zip(heads, kinds, strict=True)), "rows": text.to_numpy().tolist()}


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
