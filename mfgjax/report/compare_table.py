"""Two checkpoints side by side (`mfgjax.compare`): a table, remarks, and a figure."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table as Terminal

from mfgjax.report.section import Picture, Section, Table
from mfgjax.report.tables import fixed

_WORDS = {
    "load": "load, distance",
    "signed": "signed γ",
    "congestion": "γ_eff",
    "entropy": "H",
    "quality_spread": "B0",
    "beyond_scale": "γ, one scale",
    "agreement": "top-K shared",
    "router_kl": "gate KL",
}
_COUNT = {5: "Five", 6: "Six", 8: "Eight"}
_DIGITS = {"load": 4, "entropy": 4, "quality_spread": 3, "agreement": 4, "router_kl": 4}


def compare_section(frame: pd.DataFrame) -> Section:
    """As files: every row, and the figure."""
    title = f"{frame.attrs['second']} against {frame.attrs['first']}"
    notes = tuple(compare_remarks(frame))
    return Section(
        title,
        tables=(Table("compare", title, frame, " ".join(notes)),),
        figures=(Picture("compare", title, lambda: compare_figure(frame)),),
        notes=notes,
    )


def compare_table(frame: pd.DataFrame) -> Terminal:
    """Seven columns, a row per layer and quantity, for a terminal of 80 columns or more."""
    level = f"{100 * frame.attrs['confidence']:g}% interval"
    table = Terminal(
        title=escape(_title(frame)), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in ("layer", "", "A", "B", "B - A", level, "differs"):
        table.add_column(name, justify="left" if name in ("", "differs") else "right", no_wrap=True)
    last = frame.quantity.iloc[-1]
    for row in frame.to_dict("records"):
        quantity = row["quantity"]
        digits, first = _DIGITS.get(quantity, 1), quantity == "load"
        low, high = (fixed(row[end], digits) for end in ("low", "high"))
        table.add_row(
            str(row["layer"]) if first else "",
            _WORDS[quantity],
            *(fixed(row[name], digits) for name in ("first", "second", "difference")),
            escape(f"chance: to {high}" if first else f"[{low}, {high}]"),
            "yes" if row["differs"] else "",
            end_section=quantity == last,
        )
    return table


def compare_remarks(frame: pd.DataFrame) -> list[str]:
    """What a reader of the numbers must know."""
    about, layers = frame.attrs, frame.layer.nunique()
    texts = "the same texts, compared text by text" if about["paired"] else "different texts"
    notes = [
        f"Intervals hold for all {layers} layers of a quantity together ({100 * about['confidence']:g}%, "
        f"each layer {100 * about['level_per_layer']:.4g}%), from {texts}. "
        f"{_COUNT[frame.quantity.nunique()]} quantities are asked: one of them may well differ by chance "
        "somewhere."
    ]
    found = frame[frame.differs].groupby("quantity", sort=False).layer.apply(list)
    for quantity, where in found.items():
        listed = ", ".join(map(str, where))
        notes.append(
            f"{_WORDS[str(quantity)]} differs in {len(where)} of {layers} layers: {listed}."
        )
    if not len(found):
        notes.append("Nothing differs by more than the texts explain.")
    if about["ranked"]:
        notes.append(
            "Two models number their experts differently: experts are matched by load, and the distance "
            "is between the loads in that order."
        )
    if "beyond_scale" in set(frame.quantity):
        notes.append(
            f"{_WORDS['beyond_scale']}: A's signed γ as it would be with the slope of B's mean logits on A's as "
            "the scale of its logits. What is left is no effect of temperature."
        )
    if about["uncertified"]:
        notes.append(f"{about['uncertified']} fits are not certified: read γ there with care.")
    return notes


def compare_figure(frame: pd.DataFrame) -> Figure:
    """Differences with their intervals over the layers, a panel per quantity."""
    shown = {name: words for name, words in _WORDS.items() if name in set(frame.quantity)}
    figure = Figure(figsize=(9, 1.4 * len(shown)), layout="constrained")
    axes = np.ravel(figure.subplots(len(shown), 1, sharex=True))
    for (quantity, words), axis in zip(shown.items(), axes, strict=True):
        rows = frame[frame.quantity == quantity]
        colours = np.where(rows.differs, "C3", "C0")
        axis.vlines(rows.layer, rows.low, rows.high, color=colours, linewidth=3, alpha=0.4)
        axis.scatter(rows.layer, rows.difference, color=colours, zorder=3)
        axis.axhline(0, color="0.5", linewidth=0.8)
        axis.set_ylabel(
            words + ("" if quantity in ("load", "agreement", "router_kl") else "\nB - A")
        )
        axis.margins(y=0.15)
    axes[0].set_title(_title(frame), fontsize="small", loc="left")
    axes[-1].set_xlabel("layer (red: differs; at the top, bars are what chance alone gives)")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure


def _title(frame: pd.DataFrame) -> str:
    return f"A = {frame.attrs['first']}\nB = {frame.attrs['second']}"
