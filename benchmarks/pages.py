"""Rewrite the generated blocks of docs/: `python -m benchmarks.pages`.

A block stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`. Benchmark blocks come from
benchmarks/results, those about the bundled runs from their provenance files.
"""

import json
import re
from pathlib import Path

import numpy as np

from benchmarks.tables import Cell, table, tables
from mfgjax.bundled import BundledRun, bundled_runs
from mfgjax.price import estimate_price_slope
from mfgjax.report.sections.paper import footnotes
from mfgjax.trace import read_trace

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("bundled-runs", "benchmarks", "limits")]


def bundled_block() -> str:
    """What each bundled run is and shows, from its provenance file."""
    parts = []
    for name, run in bundled_runs().items():
        shows = json.loads((run.traces / "provenance.json").read_text())["shows"]
        lines = [f"**{name}**: {run.about}.", "", *[f"* {line}" for line in shows]]
        if run.truth is not None:
            lines += ["", recovered(run)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def recovered(run: BundledRun) -> str:
    """The congestion that was set by hand beside the slope of the revealed price, by checkpoint."""
    assert run.truth is not None
    rows, held, cells = [], 0, 0
    for step, truth in run.truth.items():
        (path,) = run.traces.glob(f"step{step}-*.statistics.safetensors")
        slope = estimate_price_slope(read_trace(path))
        low, high = slope.interval.T
        inside = (low <= truth) & (truth <= high)
        held, cells = held + int(inside.sum()), cells + inside.size
        found = zip(slope.congestion, low, high, strict=True)
        layers = [f"{x:.1f} [{a:.1f}, {b:.1f}]" for x, a, b in np.asarray(list(found)) + 0.0]
        rows.append([str(step), f"{truth:.1f}", *layers])
    names = ["step", "γ set", *(f"layer {i}" for i in range(len(rows[0]) - 2))]
    columns: dict[str, str | Cell] = {
        name: lambda row, at=at: row[at] for at, name in enumerate(names)
    }
    return (
        "Slope of the revealed price on the load, 95% interval over texts; it holds the γ that was set at "
        f"{held} of {cells} layers and checkpoints.\n\n{table(rows, columns)}"
    )


def blocks() -> dict[str, str]:
    """Every block by name."""
    disagreements = "\n".join(f"* {note}" for note in footnotes())
    return {"bundled runs": bundled_block(), "disagreements": disagreements, **tables()}


def rewrite(text: str, content: dict[str, str]) -> str:
    """`text` with each of its blocks replaced; a block that nothing fills is an error."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in content:
            raise SystemExit(f"block {name!r} has no source; there are {sorted(content)}")
        return f"<!-- begin: {name} -->\n{content[name]}\n<!-- end: {name} -->"

    return re.sub(
        r"<!-- begin: (?P<name>.+?) -->\n.*?<!-- end: (?P=name) -->", fill, text, flags=re.DOTALL
    )


if __name__ == "__main__":
    content = blocks()
    for page in PAGES:
        page.write_text(rewrite(page.read_text(), content))
