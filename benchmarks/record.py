"""What a benchmark found, and what it ran on: the file that the tables of the docs are made from."""

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from mfgjax.report.files import plain, write_whole

RESULTS = Path(__file__).parent / "results"
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the results here.")
]
"""The option of every benchmark and study."""


def keep(
    path: Path | None, markdown: Callable[[dict], str] | None = None, /, **found: Any
) -> dict[str, Any]:
    """The record of this process's `environment` and what was `found`, which is returned.

    Written to `path`, if there is one, as JSON, which has no NaN: null. What `markdown` makes of it, a table
    for the docs, goes to the file beside, with the line that says what it was measured on.
    """
    record = plain({"environment": environment()} | found)
    if path is not None:
        write_whole(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
        if markdown is not None:
            content = f"{markdown(record).strip()}\n\n{measured_on(record)}\n"
            write_whole(path.with_suffix(".md"), content)
    return record


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
    where, _, kind = on["device"].partition(": ")
    device = where.upper() if kind == where else f"{kind} ({where})"  # a CPU is called cpu
    return (
        f"`{on['command']}`: {device}, {on['cores']} cores, load average "
        f"{on['load_average']:.1f}, Python {on['python']}, {versions}."
    )


def _cell(cell: str | Cell, row: dict) -> str:
    if callable(cell):
        return str(cell(row))
    return cell.format_map(row) if "{" in cell else str(row[cell])


def environment(packages: Sequence[str] = ("jax", "numpy", "scipy", "equinox")) -> dict[str, Any]:
    """Device, versions and command of this process."""
    device = jax.devices()[0]
    return {
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
        "device": f"{device.platform}: {device.device_kind}",
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def _module() -> str:
    """Name of the running module: `sys.argv[0]` would be a path of this machine."""
    spec = sys.modules["__main__"].__spec__
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
