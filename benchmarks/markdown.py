"""A table in Markdown, and the line that says what it was measured on."""

from collections.abc import Callable, Mapping

Cell = Callable[[dict], object]


def table(rows: list[dict], columns: Mapping[str, str | Cell]) -> str:
    """Markdown of `rows`; a column is a key, a format of the row's fields, or a function of the row."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = (_cell(cell, row).replace("|", "\\|") for cell in columns.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measured_on(record: dict) -> str:
    """The line under a table: command, device, versions, load of the machine."""
    on = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in on["versions"].items())
    return (
        f"`{on['command']}`: {on['device']}, {on['cores']} cores, load average "
        f"{on['load_average']:.1f}, Python {on['python']}, {versions}."
    )


def _cell(cell: str | Cell, row: dict) -> str:
    if callable(cell):
        return str(cell(row))
    return cell.format_map(row) if "{" in cell else str(row[cell])
