"""Rewrite the generated blocks of README.md: `python -m benchmarks.readme`.

A block stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`. Benchmark blocks are the
Markdown tables that the benchmarks left in benchmarks/results.
"""

import json
import re
from pathlib import Path

from mfgjax.bundled import bundled_runs

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


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
    tables = {path.stem: path.read_text().strip() for path in sorted(RESULTS.glob("*.md"))}
    return {"bundled runs": bundled_block(), **tables}


def rewrite(text: str, content: dict[str, str]) -> str:
    """`text` with each of its blocks replaced; a block that nothing fills is an error."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in content:
            raise SystemExit(f"README block {name!r} has no source; there are {sorted(content)}")
        return f"<!-- begin: {name} -->\n{content[name]}\n<!-- end: {name} -->"

    return re.sub(
        r"<!-- begin: (?P<name>.+?) -->\n.*?<!-- end: (?P=name) -->", fill, text, flags=re.DOTALL
    )


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(rewrite(readme.read_text(), blocks()))
