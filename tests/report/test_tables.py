"""Tables as CSV, Markdown, LaTeX and on a terminal."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mfgjax.report.section import Table
from mfgjax.report.tables import cell, csv_text, latex, markdown, readable, shown, terminal


def test_csv_holds_no_formula_and_every_number():
    names = ["=HYPERLINK(1)", "+1", "@sum", "-x", "layers.0", None]
    number = np.array([-0.1, 1 / 3, np.nan, 2, 3, 4])
    frame = pd.DataFrame({"=name": names, "number": number, "half": number.astype(np.float32)})
    read = pd.read_csv(io.StringIO(csv_text(frame)))
    assert read["'=name"].tolist()[:5] == [f"'{name}" for name in names[:4]] + ["layers.0"]
    np.testing.assert_array_equal(read.number, number)
    assert csv_text(frame).splitlines()[1].endswith(",-0.1,-0.1")  # float32 in its own digits
    assert frame["=name"][0] == names[0]  # the caller's stays


def test_cells_are_short_and_whole():
    shown = [cell(v) for v in (None, float("nan"), True, 3.0, 12345.678, -0.25, float("inf"), "a")]
    assert shown == ["-", "-", "yes", "3", "12346", "−0.25", "∞", "a"]
    assert cell(1.23456e-7) == "1.235e-07"


def test_intervals_stand_in_brackets_beside_their_estimates():
    frame = pd.DataFrame(
        {
            "a_low": [0.0],
            "a": [1.0],
            "a_high": [2.0],
            "difference": [-1.5],
            "low": [-2.0],
            "high": [0.5],
        }
    )
    frame["alone_low"], frame["alone_high"] = 1.0, 2.0
    frame["none"], frame["none_low"], frame["none_high"] = 4.0, np.nan, np.nan
    assert readable(frame).iloc[0].to_dict() == {
        "a": "1 [0, 2]",
        "difference": "−1.5 [−2, 0.5]",
        "alone": "[1, 2]",
        "none": "4",
    }


def test_markdown_and_latex_show_eight_columns_escaped():
    frame = pd.DataFrame({"layer_name": ["a|b_{c}"], "error": [0.123456], "won": [None]})
    for number in range(9):
        frame[f"x{number}"] = number
    table = Table("my_table", "50% {of} γ", frame, "See #1.")
    text = markdown(shown(table), table.title, table.note)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 3 and all(row.replace("\\|", "").count("|") == 9 for row in rows)
    assert "a\\|b_{c}" in rows[2] and "0.1235" in rows[2]
    text = latex(table)
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert r"\caption{50\% \{of\} $\gamma$. See \#1.}" in text
    assert r"\label{tab:my_table}" in text
    assert r"\begin{tabular}{lrlrrrrr}" in text
    assert r"layer name & error & won & x0" in text
    assert r"a|b\_\{c\} & 0.1235 & -" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_terminal_tables_fit_and_sentences_wrap(width):
    frame = pd.DataFrame({"layer": ["layers.0.gate"], "reason": ["no congestion here " * 4]})
    for number in range(9):
        name = f"quantity{number}"
        frame[name], frame[f"{name}_low"], frame[f"{name}_high"] = 1.25, -100.0, 100.0
    made = terminal(Table("t", "A title", frame, "A note."), width)
    console = Console(width=width, file=io.StringIO())
    console.print(made)
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert 2 <= len(made.columns) <= 8
    assert "no congestion here no congestion" in " ".join(" ".join(lines).split())
    assert ("1.25 [−100, 100]" in " ".join(lines)) == (width > 60)
    assert "More columns in a wider terminal" in " ".join(" ".join(lines).split())


def test_a_narrow_terminal_leaves_out_what_matters_least():
    names = ["layer", "revision", "long_setting", "answer"]
    frame = pd.DataFrame({name: ["a_long_value_of_it"] for name in names})
    table = Table("t", "A title", frame, expendable=("long_setting", "revision"))
    assert [column.header for column in terminal(table, 200).columns][-1] == "answer"
    for width, want in ((64, ["layer", "revision", "answer"]), (42, ["layer", "answer"])):
        assert [column.header for column in terminal(table, width).columns] == want
