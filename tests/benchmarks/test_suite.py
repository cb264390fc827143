"""`python -m benchmarks` knows every benchmark."""

import importlib.util
from pathlib import Path

from benchmarks.__main__ import SUITE, module_of

FOLDER = Path(__file__).parents[2] / "benchmarks"
PARTS = {
    "__init__",
    "__main__",
    "record",
    "equilibrium_peers",
    "faulty_moe",
    "gaussian_moe_peers",
    "gaussian_moe_truths",
    "pages",
    "slimming_runs",
    "tables",
}


def test_every_benchmark_is_in_the_suite():
    modules = {path.stem for place in (FOLDER, FOLDER / "studies") for path in place.glob("*.py")}
    packages = {path.parent.name for path in FOLDER.glob("studies/*/__main__.py")}
    assert set(SUITE) == (modules - PARTS) | packages
    assert all(importlib.util.find_spec(module_of(name)) for name in SUITE)
