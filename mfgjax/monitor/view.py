"""A run's records as tables: for the terminal while it runs, and as one page afterwards."""

import html

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mfgjax.monitor.journal import Run

_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = {
    "MaxVio": ("max_violation", ".2f"),
    "floor": ("max_violation_floor", ".2f"),
    "entropy": ("entropy", ".3f"),
    "dead": ("dead_share", ".0%"),
    "busiest": ("max_share", ".1%"),
    "excess": ("congestion_excess", ".1f"),
    "price": ("price_spread", ".2g"),
    "aux": ("aux_gradient", ".2g"),
    "logit sd": ("logit_dispersion", ".2f"),
    "z": ("z", ".2f"),
}
_PAGE_ONLY = ("logit sd", "z")  # a terminal is narrow
_WIDTH, _HEIGHT = 260, 36


def terminal(run: Run, width: int = 16) -> Group:
    """The newest record by layer, MaxVio over the run as bars, and the alarms."""
    if not run.records:
        return Group(Text("no record yet"))
    record = run.records[-1]
    kept = [name for name in _shown(run) if name not in _PAGE_ONLY]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("layer", overflow="fold", min_width=min(28, max(map(len, record.layers))))
    for name in kept:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("MaxVio so far", no_wrap=True)
    faulty = {alarm.layer for alarm in run.alarms}
    for place, layer in enumerate(record.layers):
        cells = [_cell(getattr(record, _COLUMNS[n][0])[place], _COLUMNS[n][1]) for n in kept]
        style = "bold red" if layer in faulty else ""
        table.add_row(Text(layer), *cells, _bars(_history(run, place), width), style=style)
    head = Text(
        f"step {record.step}, {len(run.records)} sampled, alarms: {len(run.alarms)}", "bold"
    )
    alarms = [Text(alarm.sentence, "red") for alarm in run.alarms[-8:]]
    return Group(head, table, *alarms)


def page(run: Run, title: str) -> str:
    """The same as one HTML page without scripts; a heat map of loads where the records have counts."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if not run.records:
        return _document(title, [*parts, "<p>No record yet.</p>"])
    record, kept = run.records[-1], _shown(run)
    parts.append(
        f"<p>Step {record.step}, {len(run.records)} sampled steps, alarms: {len(run.alarms)}.</p>"
    )
    rows = "".join(f"<li>{html.escape(alarm.sentence)}</li>" for alarm in run.alarms)
    parts.append(f'<ul class="alarms">{rows}</ul>' if rows else "<p>No alarm.</p>")
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in ["layer", *kept, "MaxVio so far"])
    faulty = {alarm.layer for alarm in run.alarms}
    body = []
    for place, layer in enumerate(record.layers):
        cells = [_cell(getattr(record, _COLUMNS[n][0])[place], _COLUMNS[n][1]) for n in kept]
        marked = ' class="faulty"' if layer in faulty else ""
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        line = _line(_history(run, place))
        body.append(f"<tr{marked}><th>{html.escape(layer)}</th>{numbers}<td>{line}</td></tr>")
    parts.append(f"<table><tr>{heads}</tr>{''.join(body)}</table>")
    if record.count is not None:
        parts.append(
            "<h2>Load of each expert, newest step</h2><p>White is the mean; red above, blue below.</p>"
        )
        parts.append(_heat(record))
    return _document(title, parts)


def _shown(run: Run) -> list[str]:
    """Columns in which the newest record has a number."""
    record = run.records[-1]
    return [n for n, (field, _) in _COLUMNS.items() if np.isfinite(getattr(record, field)).any()]


def _history(run: Run, place: int) -> np.ndarray:
    return np.array([r.max_violation[place] for r in run.records])


def _cell(value: float, form: str) -> str:
    if not np.isfinite(value):
        return "-"
    return format(0.0 if abs(value) < 1e-9 else value, form)  # a gradient's rounding is none


def _bars(values: np.ndarray, width: int) -> str:
    parts = np.array_split(values, min(width, len(values)))
    means = np.array([np.nanmax(p) if np.isfinite(p).any() else 0 for p in parts])
    top = max(float(means.max()), 1e-9)
    return "".join(_BARS[int(min(m / top, 1) * (len(_BARS) - 1))] for m in means)


def _line(values: np.ndarray) -> str:
    values = np.nan_to_num(values)
    top = max(float(values.max()), 1e-9)
    x = np.linspace(1, _WIDTH - 1, len(values))
    y = _HEIGHT - 2 - (_HEIGHT - 4) * values / top
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="up to {top:.2f}">'
        f'<polyline points="{points}"/></svg> <small>up to {top:.2f}</small>'
    )


def _heat(record) -> str:
    rows = []
    for layer, count in zip(record.layers, record.count, strict=True):
        relative = len(count) * count / max(count.sum(), 1)
        cells = "".join(
            f'<td title="expert {i}: {r:.2f} of the mean" style="background:{_colour(r)}"></td>'
            for i, r in enumerate(relative)
        )
        rows.append(f"<tr><th>{html.escape(layer)}</th>{cells}</tr>")
    return f'<table class="heat">{"".join(rows)}</table>'


def _colour(relative: float) -> str:
    depth = float(np.clip(np.log2(max(relative, 1e-3)) / 2, -1, 1))
    fade = round(255 * (1 - abs(depth)))
    return f"rgb(255,{fade},{fade})" if depth > 0 else f"rgb({fade},{fade},255)"


def _document(title: str, parts: list[str]) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto;font-variant-numeric:tabular-nums}"
    "th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #8886}"
    "th:first-child{text-align:left;font-weight:normal;white-space:nowrap}.faulty>th:first-child{color:#b00020;font-weight:bold}"
    "h1{overflow-wrap:anywhere}.alarms{color:#b00020}polyline{fill:none;stroke:#1f4e8c;stroke-width:1.5}svg{vertical-align:middle}"
    ".heat td{width:1rem;height:1rem;padding:0;border:1px solid #8884}"
    "@media(prefers-color-scheme:dark){.alarms,.faulty>th:first-child{color:#ff8a80}polyline{stroke:#7fb2ff}}"
)
