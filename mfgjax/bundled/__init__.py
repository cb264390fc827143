"""Real training runs that come with the package: small OLMoE models, traced over their training.

Each run is a folder of traces with a `provenance.json`: the commands, versions, seeds and loss
curve that made it, and what its trajectory shows.
"""

import dataclasses
import json
from importlib.resources import files
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class BundledRun:
    """Where a bundled run lies and what it is."""

    traces: Path
    about: str


def bundled_runs() -> dict[str, BundledRun]:
    """The bundled runs by name, largest number of experts first."""
    root = Path(str(files("mfgjax.bundled")))
    found = {}
    for path in root.glob("*/provenance.json"):
        provenance = json.loads(path.read_text())
        found[path.parent.name] = (
            provenance["experts"],
            BundledRun(path.parent, provenance["about"]),
        )
    ordered = sorted(found.items(), key=lambda item: (-item[1][0], item[0]))
    return {name: run for name, (_, run) in ordered}
