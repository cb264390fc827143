"""Rewrite the generated blocks of docs/: `python -m benchmarks.pages`.

A block stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`. Benchmark blocks come from
benchmarks/results, those about the bundled runs from their provenance files.
"""

import json
import re
from pathlib import Path

from benchmarks.tables import tables
from mfgjax.bundled import bundled_runs
from mfgjax.report.sections.paper import footnotes

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("bundled-runs", "benchmarks", "limits")]


def bundled_block() -> str:
    """What each bundled run is and shows, from its provenance file."""
    parts = []
    for name, run in bundled_runs().items():
        shows = json.loads((run.traces / "provenance.json").read_text())["shows"]
        lines = [f"**{name}**: {run.about}.", "", *[f"* {line}" for line in shows]]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


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
