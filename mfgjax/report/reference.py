"""Published numbers to set beside ours: Mouzouni, "Three Phases of Expert Routing", arXiv 2604.04230.

Tables 1, 2, 4, 5 and 6 as printed, and what the text says of Figure 2. They are the paper's figures, not results of this code.
"""

import csv
from importlib.resources import files

import numpy as np
import pandas as pd

from mfgjax.report.section import Table

SOURCE = "Mouzouni, arXiv 2604.04230"


def published_table(name: str) -> dict[str, np.ndarray]:
    """Columns of one of the paper's tables: numbers as floats (blank: NaN), else strings.

    Args:
        name: `table1_olmoe_dynamics`, `table2_openmoe_dynamics`, `table4_heldout_l1`,
            `table5_decomposition`, `table6_cross_architecture` or `figure2_robustness`.

    Raises:
        KeyError: no such table; names those there are.
    """
    folder = files("mfgjax.report") / "published"
    known = sorted(f.name.removesuffix(".csv") for f in folder.iterdir() if f.name.endswith(".csv"))
    if name not in known:
        raise KeyError(f"no published table {name!r}; there are {', '.join(known)}")
    rows = list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))
    return {column: _column([row[column] for row in rows]) for column in rows[0]}


def published(name: str, title: str) -> Table:
    """The same as a table of a report, marked as such."""
    note = f"Published numbers ({SOURCE}), not results of this run."
    frame = pd.DataFrame(published_table(name))
    return Table(f"published_{name}", f"Published: {title}", frame, note)


def _column(values: list[str]) -> np.ndarray:
    try:
        return np.array([float(v) if v else np.nan for v in values])
    except ValueError:
        return np.array(values)
