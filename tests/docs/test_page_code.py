"""The Python of every page runs, and gives what its comments say. A file of its own, for the other worker."""

import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def pages_with_python():
    pages = [ROOT / "README.md", DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]
    return [page for page in pages if "```python" in page.read_text()]


@pytest.mark.parametrize("page", pages_with_python(), ids=lambda page: page.stem)
def test_python_of_the_page_runs(page, monkeypatch):
    monkeypatch.setattr("sys.argv", ["python"])
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    names: dict = {"__name__": "__main__"}
    with jax.numpy_dtype_promotion("standard"):  # as readers have it
        for number, block in enumerate(blocks):
            exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    if page.stem == "tutorial":  # what its comments say
        assert abs(float(names["fit"].congestion) - 9.9) < 0.05
        assert int(names["fit"].minima) == 2
        assert abs(float(names["found"].congestion.mean()) - 20) < 3
