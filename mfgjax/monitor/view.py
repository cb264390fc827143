"""A run's records as tables: for the terminal while it runs, and as one page afterwards."""

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mfgjax.monitor.journal import Run
from mfgjax.report.files import page_template

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
    template = page_template("mfgjax.monitor", "view.html.j2")
    if not run.records:
        return template.render(title=title, record=None)
    record, kept = run.records[-1], _shown(run)
    faulty = {alarm.layer for alarm in run.alarms}
    rows = []
    for place, layer in enumerate(record.layers):
        cells = [_cell(getattr(record, _COLUMNS[n][0])[place], _COLUMNS[n][1]) for n in kept]
        points, top = _line(_history(run, place))
        row = {"layer": layer, "faulty": layer in faulty, "cells": cells}
        rows.append(row | {"points": points, "top": f"{top:.2f}"})
    return template.render(
        title=title,
        record=record,
        sampled=len(run.records),
        alarms=run.alarms,
        heads=["layer", *kept, "MaxVio so far"],
        rows=rows,
        size=(_WIDTH, _HEIGHT),
        heat=[] if record.count is None else list(zip(record.layers, _heat(record), strict=True)),
    )


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


def _line(values: np.ndarray) -> tuple[str, float]:
    """Points of a line over the run, and its top."""
    values = np.nan_to_num(values)
    top = max(float(values.max()), 1e-9)
    x = np.linspace(1, _WIDTH - 1, len(values))
    y = _HEIGHT - 2 - (_HEIGHT - 4) * values / top
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)), top


def _heat(record) -> list[list[tuple[float, str]]]:
    """Load over the mean and its colour, by layer and expert."""
    relative = [len(count) * count / max(count.sum(), 1) for count in record.count]
    return [[(float(r), _colour(r)) for r in layer] for layer in relative]


def _colour(relative: float) -> str:
    depth = float(np.clip(np.log2(max(relative, 1e-3)) / 2, -1, 1))
    fade = round(255 * (1 - abs(depth)))
    return f"rgb(255,{fade},{fade})" if depth > 0 else f"rgb({fade},{fade},255)"
