"""What a report is made of. A section returns data; `html`, `tables` and `files` render it.

A section is one file in `mfgjax/report/sections` with a function

    def section(inputs: Inputs) -> Section | None

and one line in `SECTIONS` there. None leaves it out. What several sections need is computed once, in
`mfgjax.report.inputs`; what one needs is computed in its own file.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_COLUMNS = 8
"""Columns of a table that a reader sees at once; the rest is folded away, and in the CSV."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows with a title. Columns `x`, `x_low` and `x_high` are an estimate and its interval.

    Attributes:
        name: of the files, and of the table in JSON.
        title: for people.
        frame: every column, every digit.
        note: what to know about it.
        shown: columns to show first, at most eight, an interval counting as part of its estimate;
            empty for the first eight.
        expendable: columns that a narrow terminal leaves out first, in this order; then it goes on
            from the last one.
    """

    name: str
    title: str
    frame: pd.DataFrame
    note: str = ""
    shown: tuple[str, ...] = ()
    expendable: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure by the name of its files; drawn only where it is written.

    Attributes:
        name: of the files.
        caption: what it shows, also for readers without sight.
        draw: makes the figure.
        in_page: whether the page shows it; not where it has the same numbers otherwise.
    """

    name: str
    caption: str
    draw: "Callable[[], Figure]"
    in_page: bool = True


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """Numbers by row and column, on a scale that is white at 0; NaN is grey.

    Attributes:
        label: what the numbers are.
        values: `[row, column]`.
        rows: names of the rows.
        columns: names of the columns.
    """

    label: str
    values: np.ndarray
    rows: Sequence[str]
    columns: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        title: heading, and entry of the contents.
        verdict: sentences for the top of the report: what was found, not how.
        tables: in order.
        figures: in order.
        heat_maps: below them.
        notes: what a reader must know to use the numbers.
        background: paragraphs that hold whatever the run.
    """

    title: str
    verdict: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Picture, ...] = ()
    heat_maps: tuple[HeatMap, ...] = ()
    notes: tuple[str, ...] = ()
    background: tuple[str, ...] = ()
