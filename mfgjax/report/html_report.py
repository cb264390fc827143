"""The analysis as one HTML file: no script, no network, pictures and data inside."""

import base64
import io
from html import escape
from importlib.resources import files

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from mfgjax.estimate import SensitivityTable
from mfgjax.estimate.sensitivity import layer_average
from mfgjax.report.analysis import Analysis
from mfgjax.report.analysis_tables import AnalysisTable
from mfgjax.report.footnotes import footnotes
from mfgjax.report.hover_svg import heat_map_svg, lines_svg, ribbon_svg
from mfgjax.report.permutation_panel import hover_excess
from mfgjax.report.reference import SOURCE
from mfgjax.report.table_files import csv_text, rows_of

_SECTIONS = {
    "Training dynamics": ("trajectory", "published_table1_olmoe_dynamics"),
    "Layers": ("layers", "published_table2_openmoe_dynamics"),
    "Decomposition": (
        "decomposition_groups",
        "decomposition",
        "published_table5_decomposition",
    ),
    "Excess over the permutation null": ("permutation_excess",),
    "Sensitivity": ("robustness", "robustness_trajectories", "published_figure2_robustness"),
    "Scope": (
        "scope_card",
        "top_k_truncation",
        "continuation",
        "coupled_layers",
        "cross_architecture",
    ),
    "Held-out comparison": (
        "heldout_error",
        "heldout_l1_by_layer",
        "heldout_differences",
        "heldout_differences_refitted",
        "heldout_congestion",
    ),
    "Token types": (
        "type_count",
        "type_fit",
        "type_load",
        "type_separation",
        "types_over_training",
    ),
    "Balance": ("balance_percentiles", "balance"),
    "Other published tables": (
        "published_table4_heldout_l1",
        "published_table6_cross_architecture",
    ),
}
_FIGURES = {
    "Training dynamics": {"trajectory": "Effective congestion over training"},
    "Decomposition": {"decomposition": "Congestion by layer with its null"},
    "Excess over the permutation null": {
        "permutation_excess": "Signed congestion, permutation null and excess by layer"
    },
    "Sensitivity": {"robustness": "Layer averages under other qualities"},
    "Scope": {"continuation": "Continuation spread of adjacent layers with its null"},
    "Held-out comparison": {"heldout_error": "Held-out error of every model"},
    "Token types": {
        "type_count": "Evidence for each number of token types",
        "types_over_training": "Weights and separation of token types over training",
    },
}


def html_report(analysis: Analysis, figures: dict[str, Figure]) -> str:
    """The report as text.

    Args:
        analysis: what to report.
        figures: by name, as `analysis_figures` draws them; those it has no place for are left out.
    """
    dataset = analysis.trajectory
    tables = {table.name: table for table in analysis.tables}
    body = [f"<h1>Routing of {escape(str(dataset.model))}</h1>", _settings(dataset)]
    body.append("<h2>Read this first</h2>" + _bullets(analysis.remarks))
    for title, names in _SECTIONS.items():
        present = [tables[name] for name in names if name in tables]
        if not present:
            continue
        body.append(f"<h2>{title}</h2>")
        for name, alt in _FIGURES.get(title, {}).items():
            if name in figures:
                body.append(_image(figures[name], alt))
        if title == "Training dynamics":
            body.append(_hover_trajectory(dataset))
        if title == "Layers":
            body.append(_hover_layers(dataset))
        if title.startswith("Excess"):
            body.append(hover_excess(analysis.excess))
        if title == "Sensitivity":
            body.append(_hover_sensitivity(dataset, analysis.sensitivity))
        body += [_table(table) for table in present]
    body.append("<h2>Where the paper does not add up</h2>")
    body.append(f'<p class="note">{escape(SOURCE)}</p>' + _bullets(footnotes()))
    style = (files("mfgjax.report") / "report.css").read_text()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>mfgjax: {escape(str(dataset.model))}</title><style>{style}</style></head>\n"
        "<body>" + "\n".join(body) + "</body></html>\n"
    )


def _settings(dataset: xr.Dataset) -> str:
    alpha = float(dataset.aux_loss_coef)
    rows = {
        "experts": f"{dataset.experts}, top-{dataset.top_k}, {dataset.layer.size} MoE layers",
        "auxiliary loss": "none stated" if pd.isna(alpha) else f"coefficient {alpha:g}",
        "checkpoints": f"{dataset.checkpoint.size}, {dataset.texts} texts",
        "intervals": f"{100 * dataset.confidence:g}% {dataset.interval}, {dataset.resamples} resamples of "
        f"the texts, seed {dataset.seed}",
        "made with": f"{dataset.versions} on {dataset.device}",
    }
    items = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in rows.items())
    return f"<dl>{items}</dl>"


def _bullets(lines) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _image(figure: Figure, alt: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return f'<img alt="{escape(alt)}" src="{_data_uri("image/svg+xml", buffer.getvalue())}">'


def _hover_trajectory(dataset: xr.Dataset) -> str:
    columns = [str(c) for c in dataset.checkpoint.values]
    series = {}
    for name, label in (("signed", "signed congestion"), ("null", "dispersion null")):
        value = dataset[f"mean_{name}"].values
        series[label] = (value, dataset[f"mean_{name}_interval"].values)
    parts = ["<h3>Layer averages, point at a mark for its value</h3>"]
    parts.append(lines_svg(series, columns, "signed congestion and its null"))
    if "phase" in dataset:
        probability = dataset.phase_probability.values
        parts.append(ribbon_svg([str(p) for p in dataset.phase.values], probability, columns))
    return "".join(parts)


def _hover_layers(dataset: xr.Dataset) -> str:
    columns = [str(c) for c in dataset.checkpoint.values]
    rows = [f"{i}: {name}"[-24:] for i, name in enumerate(map(str, dataset.layer.values))]
    parts = []
    names = {
        "congestion": "effective congestion (Definition 3.1)",
        "signed": "signed congestion",
        "excess": "excess over the dispersion null",
    }
    for name, label in names.items():
        values = dataset[name].transpose("layer", "checkpoint").values
        parts.append(f"<h3>{label}</h3>" + heat_map_svg(values, rows, columns, label))
    return "".join(parts)


def _hover_sensitivity(dataset: xr.Dataset, found: SensitivityTable) -> str:
    columns = [str(c) for c in dataset.checkpoint.values]
    rows = [f"{o}, {q}" for o, q in zip(found.objective, found.quality, strict=True)]
    values = np.stack([layer_average(row) for row in found.congestion])
    label = "layer average by objective and quality"
    return f"<h3>{label.capitalize()}</h3>" + heat_map_svg(values, rows, columns, label)


def _table(table: AnalysisTable) -> str:
    frame = table.frame
    words = [not pd.api.types.is_numeric_dtype(frame[c]) for c in frame.columns]
    head = "".join(
        f"<th{_kind(w, '')}>{escape(str(c))}</th>"
        for c, w in zip(frame.columns, words, strict=True)
    )
    body = []
    for row in rows_of(frame):
        cells = zip(row, words, frame.columns, strict=True)
        body.append(
            "<tr>" + "".join(f"<td{_kind(w, c)}>{escape(v)}</td>" for v, w, c in cells) + "</tr>"
        )
    link = _data_uri("text/csv", csv_text(frame).encode())
    source = " class='published'" if table.name.startswith("published_") else ""
    return (
        f'<section id="{table.name}"{source}><h3>{escape(table.title)}</h3>'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody>'
        f'</table></div><p class="note">{escape(table.note)} '
        f'<a download="{table.name}.csv" href="{link}">Download CSV</a></p></section>'
    )


def _kind(words: bool, column: str) -> str:
    names = ["words"] * words + ["reason"] * (column == "reason")
    return f' class="{" ".join(names)}"' if names else ""


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
