"""One table as files: CSV to compute with, Markdown and LaTeX to paste."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mfgjax.report.whole_file import whole_file

if TYPE_CHECKING:
    from mfgjax.report.analysis_tables import AnalysisTable

_LATEX = {
    "\\": r"\textbackslash{}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


def csv_text(frame: pd.DataFrame) -> str:
    """The frame as CSV with every digit. Names come from traces of anyone's making: text that a
    spreadsheet would run as a formula gets an apostrophe before it, numbers stay as they are."""
    safe = frame.rename(columns=_no_formula)
    for name in safe.select_dtypes(exclude="number"):
        safe[name] = safe[name].map(_no_formula)
    return safe.to_csv(index=False)


def _no_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def write_table(
    frame: pd.DataFrame, folder: Path, name: str, *, title: str, note: str = ""
) -> list[Path]:
    """Write `name.csv`, `name.md` and `name.tex`, each whole or not at all.

    The CSV holds every digit; the other two show four significant ones.
    """
    contents = {
        "csv": csv_text(frame),
        "md": markdown(frame, title, note),
        "tex": latex(frame, title, note, name),
    }
    paths = []
    for suffix, content in contents.items():
        path = folder / f"{name}.{suffix}"
        with whole_file(path) as partial:
            partial.write_text(content, encoding="utf-8")
        paths.append(path)
    return paths


def tables_json(tables: "Iterable[AnalysisTable]") -> dict[str, Any]:
    """Tables by name, rows as dictionaries, for `json.dumps`; missing numbers are None."""
    return {
        table.name: {
            "title": table.title,
            "note": table.note,
            "rows": table.frame.astype(object).where(table.frame.notna(), None).to_dict("records"),
        }
        for table in tables
    }


def cell(value: object) -> str:
    """A value for people: four significant digits, a dash for what is missing."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e9:
            return str(int(value))
        return f"{value:.4g}"
    return str(value)


def rows_of(frame: pd.DataFrame) -> list[list[str]]:
    """The frame's cells as text, row by row."""
    return [[cell(value) for value in row] for row in frame.astype(object).to_numpy().tolist()]


def markdown(frame: pd.DataFrame, title: str, note: str = "") -> str:
    """A GitHub-flavoured Markdown table under its title."""
    lines = [[str(c) for c in frame.columns], ["---"] * frame.shape[1], *rows_of(frame)]
    body = "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines)
    return f"**{title}**\n\n{body}\n" + (f"\n{note}\n" if note else "")


def latex(frame: pd.DataFrame, title: str, note: str = "", label: str = "") -> str:
    """A LaTeX table float with booktabs rules."""
    numeric = [pd.api.types.is_numeric_dtype(frame[c]) for c in frame.columns]
    columns = "".join("r" if is_number else "l" for is_number in numeric)
    rows = [
        " & ".join(_escaped(c) for c in row) + r" \\"
        for row in [[str(c) for c in frame.columns], *rows_of(frame)]
    ]
    caption = f"{title}. {note}" if note else f"{title}."
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_escaped(caption)}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
