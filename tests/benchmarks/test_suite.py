"""`python -m benchmarks` knows every benchmark."""

from pathlib import Path

from benchmarks.__main__ import SUITE

FOLDER = Path(__file__).parents[2] / "benchmarks"
PARTS = {"__main__", "environment", "equilibrium_peers", "pages", "tables"}


def test_every_benchmark_is_in_the_suite():
    modules = {path.stem for path in FOLDER.glob("*.py")}
    packages = {path.parent.name for path in FOLDER.glob("*/__main__.py")}
    assert set(SUITE) == (modules - PARTS) | packages
