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
    """Where a bundled run lies and what it is.

    Attributes:
        traces: folder of its traces.
        about: one line.
        truth: congestion that was set by hand, by step, where the run was trained with a leaky price
            (`extract/training/balance.py`); None where nobody knows it.
    """

    traces: Path
    about: str
    truth: dict[int, float] | None = None


def bundled_runs() -> dict[str, BundledRun]:
    """The bundled runs by name, those with a known truth first."""
    root = Path(str(files("mfgjax.bundled")))
    found = {}
    for path in root.glob("*/provenance.json"):
        provenance = json.loads(path.read_text())
        found[path.parent.name] = BundledRun(path.parent, provenance["about"], _truth(provenance))
    return dict(sorted(found.items(), key=lambda item: (item[1].truth is None, item[0])))


def _truth(provenance: dict) -> dict[int, float] | None:
    rows = provenance.get("truth")
    return None if rows is None else {row["step"]: row["gamma"] for row in rows}
