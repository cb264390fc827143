"""Tables and figures of a command as files."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from mfgjax.report.analysis_tables import AnalysisTable
from mfgjax.report.table_files import write_table
from mfgjax.report.whole_file import whole_file


def export_tables(
    tables: Iterable[AnalysisTable], figures: Mapping[str, Figure], folder: Path
) -> list[Path]:
    """Write `tables/*.csv|md|tex` and `figures/*.png|svg` under `folder`, each whole or not at all.

    Returns their paths.
    """
    paths = []
    for table in tables:
        paths += write_table(
            table.frame, folder / "tables", table.name, title=table.title, note=table.note
        )
    for name, figure in figures.items():
        for suffix in ("png", "svg"):
            path = folder / "figures" / f"{name}.{suffix}"
            with whole_file(path) as partial:
                figure.savefig(partial, format=suffix, dpi=160)
            paths.append(path)
    return paths
