"""A table for every reader: CSV and JSON to compute with; Markdown, LaTeX and a terminal to read.

CSV and JSON hold every column and digit. The others show four digits, at most eight columns, and an
interval in brackets beside its estimate.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Terminal

from mfgjax.report.files import plain, write_whole
from mfgjax.report.section import MOST_COLUMNS, Table

_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "_%&#${}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "γ": r"$\gamma$",
        "−": "$-$",
        "≥": r"$\geq$",
    }
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""
_LONG = 32
"""Characters of a cell on a line of the terminal."""
_MORE = " More columns in a wider terminal."


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write `name.csv`, `name.md` and `name.tex`, each whole or not at all; returns their paths."""
    contents = {
        "csv": csv_text(table.frame),
        "md": markdown(shown(table), table.title, table.note),
        "tex": latex(table),
    }
    return [write_whole(folder / f"{table.name}.{end}", text) for end, text in contents.items()]


def tables_json(tables: Iterable[Table]) -> dict[str, Any]:
    """Tables by name, rows as dictionaries, for `json.dumps`; missing numbers are None."""
    return {t.name: plain({"title": t.title, "note": t.note, "rows": t.frame}) for t in tables}


def csv_text(frame: pd.DataFrame) -> str:
    """The frame as CSV with every digit. Names come from traces of anyone's making: text that a
    spreadsheet would run as a formula gets an apostrophe before it, numbers stay as they are."""
    safe = frame.rename(columns=_no_formula)
    for name in safe.select_dtypes(exclude="number"):
        safe[name] = safe[name].map(_no_formula)
    return safe.to_csv(index=False)


def _no_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def cell(value: object, digits: int = 4) -> str:
    """A value for people: some significant digits, a dash for what is missing."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        whole = abs(value) < 1e9 and (float(value).is_integer() or abs(value) >= 10**digits)
        size = f"{abs(value):.0f}" if whole else f"{abs(value):.{digits}g}".replace("inf", "∞")
        return f"−{size}" if value < 0 else size
    return str(value)


def fixed(value: Any, digits: int) -> str:
    """Digits after the point; a dash for what is missing or has no end."""
    return f"{float(value):.{digits}f}" if np.isfinite(float(value)) else "-"


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Every column as text, with `x_low` and `x_high` in brackets behind `x`.

    Columns named `low` and `high` belong to the one before them.
    """
    values = {str(name): column.tolist() for name, column in frame.items()}
    ends = {name: pair for name in values if (pair := _ends(name, list(values)))}
    inside = {end for pair in ends.values() for end in pair}
    out = {}
    for name in values:
        stem = name.removesuffix("_low")
        if name in ends:
            low, high = ends[name]
            pairs = zip(values[name], _intervals(values[low], values[high]), strict=True)
            out[name] = [f"{cell(x, 3)} {y}" if y != "-" else cell(x) for x, y in pairs]
        elif name not in inside and name != stem and f"{stem}_high" in values:
            out[stem] = _intervals(values[name], values[f"{stem}_high"])
            inside.add(f"{stem}_high")
        elif name not in inside:
            out[name] = [cell(value) for value in values[name]]
    return pd.DataFrame(out, dtype=str)


def _ends(name: str, names: list[str]) -> tuple[str, str] | None:
    """The columns that hold the interval of one."""
    if {f"{name}_low", f"{name}_high"} <= set(names):
        return f"{name}_low", f"{name}_high"
    follows = names.index(name) + 1
    return ("low", "high") if names[follows : follows + 2] == ["low", "high"] else None


def shown(table: Table) -> pd.DataFrame:
    """What a reader sees first of it, as text: at most eight columns."""
    every = readable(table.frame)
    first = [name for name in table.shown if name in every.columns]
    return every.loc[:, first or list(every.columns[:MOST_COLUMNS])]


def numeric(frame: pd.DataFrame, name: str) -> bool:
    """Whether a column of `readable` is of numbers, to be set to the right."""
    if name not in frame.columns:
        return True
    return bool(pd.api.types.is_numeric_dtype(frame[name])) and frame[name].dtype != bool


def markdown(frame: pd.DataFrame, title: str, note: str = "") -> str:
    """A GitHub-flavoured Markdown table under its title."""
    text = (
        frame
        if all(frame[name].map(lambda v: isinstance(v, str)).all() for name in frame)
        else readable(frame)
    )
    text = text.map(_no_pipe).rename(columns=lambda name: _no_pipe(str(name)))
    body = text.to_markdown(index=False, tablefmt="github", disable_numparse=True)
    return f"**{title}**\n\n{body}\n" + (f"\n{note}\n" if note else "")


def _no_pipe(text: str) -> str:
    return text.replace("|", "\\|")


def latex(table: Table) -> str:
    """A LaTeX float to paste, with the rules of booktabs."""
    text = shown(table)
    columns = "".join("r" if numeric(table.frame, name) else "l" for name in text.columns)
    caption = f"{table.title}. {table.note}" if table.note else f"{table.title}."
    heads = {name: _for_latex(name.replace("_", " ")) for name in text.columns}
    return (
        text.map(_for_latex)
        .rename(columns=heads)
        .to_latex(
            index=False,
            escape=False,
            column_format=columns,
            caption=_for_latex(caption),
            label=f"tab:{table.name}",
            position="tbp",
        )
    )


def _for_latex(text: str) -> str:
    return text.translate(_LATEX)


def terminal(table: Table, width: int) -> Terminal:
    """A table in the manner of `mfgjax track`; where there is no room, columns go as it says."""
    text = shown(table)
    columns = {name.replace("_", " "): list(map(escape, text[name])) for name in text}
    left = [n.replace("_", " ") for n in text if not numeric(table.frame, n)]
    expendable = [name.replace("_", " ") for name in table.expendable]
    expendable += [name for name in reversed(list(columns)[2:]) if name not in expendable]
    return fitted(columns, expendable, width, title=table.title, caption=table.note, left=left)


def fitted(
    columns: Mapping[str, Sequence[str]],
    expendable: Sequence[str],
    width: int,
    *,
    title: str,
    caption: str,
    left: Sequence[str] = (),
) -> Terminal:
    """Columns of text for a terminal of `width` columns.

    Args:
        columns: heading to cells; cells may hold rich's markup, so escape what others wrote.
        expendable: headings to leave out where there is no room, in this order.
        width: of the terminal.
        title: above the table, as it is.
        caption: below it, as it is.
        left: headings of columns that are set to the left.

    The caption says so where a column was left out.
    """
    columns, rest = dict(columns), list(expendable)
    while True:
        table = Terminal(
            title=escape(title),
            caption=escape(caption),
            title_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for name, cells in columns.items():
            most = _LONG if any(len(cell) > _LONG for cell in cells) else None  # sentences wrap
            side = "left" if name in left else "right"
            table.add_column(name, justify=side, overflow="fold", max_width=most)
        for row in zip(*columns.values(), strict=True):
            table.add_row(*row)
        rest = [name for name in rest if name in columns]
        if not rest or Console(width=1000).measure(table).maximum <= width:
            return table
        del columns[rest.pop(0)]
        caption = caption if caption.endswith(_MORE) else caption + _MORE


def _intervals(low: Sequence[float], high: Sequence[float]) -> list[str]:
    pairs = zip(low, high, strict=True)
    return ["-" if cell(a) == cell(b) == "-" else f"[{cell(a, 3)}, {cell(b, 3)}]" for a, b in pairs]
