"""The analysis as one HTML file: no script, no network, pictures and data inside."""

import base64
from collections.abc import Mapping
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import xarray as xr

from mfgjax.report import hover
from mfgjax.report.analysis import Analysis
from mfgjax.report.plot import PHASE_COLOURS
from mfgjax.report.section import Section, Table
from mfgjax.report.tables import csv_text, numeric, readable, shown

_MOST_ROWS = 16
"""Rows of a table that stands open; longer ones are folded, and so is what the paper published."""


def html_report(analysis: Analysis, figures: Mapping[str, bytes]) -> str:
    """The report as text.

    Args:
        analysis: what to report.
        figures: as SVG, by name; those that are missing are left out.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mfgjax.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(
        model=str(analysis.trajectory.model),
        settings=_settings(analysis.trajectory),
        verdict=analysis.verdict,
        sections=[_section(section, figures) for section in analysis.sections],
        phase_colours=PHASE_COLOURS,
        size=hover,
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
        "hover": [hover.drawable(picture) for picture in section.hover],
        "tables": [_table(table) for table in section.tables],
        "notes": section.notes,
        "background": section.background,
    }


def _table(table: Table) -> dict[str, Any]:
    every, first = readable(table.frame), shown(table)
    published = table.name.startswith("published_")
    return {
        "name": table.name,
        "title": table.title,
        "note": table.note,
        "published": published,
        "folded": published or len(first) > _MOST_ROWS,
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
