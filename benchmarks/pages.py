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
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("bundled-runs", "benchmarks", "limits", "lab")]


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
    """The congestion that was set and the one in force beside the slope of the revealed price."""
    truth = json.loads((run.traces / "provenance.json").read_text())["truth"]
    rows = []
    for row in truth:
        (path,) = run.traces.glob(f"step{row['step']}-*.statistics.safetensors")
        slope = estimate_price_slope(read_trace(path))
        rows.append(row | {"found": slope.congestion + 0.0, "interval": slope.interval + 0.0})
    low, high = np.stack([row["interval"] for row in rows]).transpose(2, 0, 1)
    held = {}
    for name, value in (
        ("in_force", [r["in_force"] for r in rows]),
        ("set", [[r["gamma"]] for r in rows]),
    ):
        inside = (low <= np.asarray(value)) & (np.asarray(value) <= high)
        held[name] = f"{inside.sum()} of {inside.size}"

    def found(row: dict) -> str:
        ends = zip(row["found"], *row["interval"].T, strict=True)
        return "; ".join(f"{x:.1f} [{a:.1f}, {b:.1f}]" for x, a, b in ends)

    columns: dict[str, str | Cell] = {
        "step": "step",
        "γ set": lambda row: f"{row['gamma']:.1f}",
        "price in force, layers 0 to 3": lambda row: ", ".join(f"{x:.1f}" for x in row["in_force"]),
        "slope of the revealed price, 95%": found,
    }
    return (
        "Set by hand was γ; what the price that each checkpoint stores amounts to on its training load (400 "
        "other windows) is the price in force, which lags and averages a noisy load. The interval of the slope "
        f"revealed by held-out choices holds the price in force at {held['in_force']} layers and checkpoints, "
        f"the γ that was set at {held['set']}.\n\n{table(rows, columns)}"
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
