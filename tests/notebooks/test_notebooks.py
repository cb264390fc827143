"""Every notebook runs from top to bottom, is paired with its .ipynb, and holds no outputs."""

import json
import runpy
from pathlib import Path

import jax
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))


def code_cells(script: str) -> list[str]:
    """Code of the percent-format cells, one string each."""
    cells = ("\n" + script).split("\n# %%")[1:]
    return [c.split("\n", 1)[1].strip() for c in cells if not c.startswith(" [markdown]")]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs(path, monkeypatch):
    import matplotlib as mpl

    mpl.use("Agg")
    monkeypatch.chdir(FOLDER)
    with jax.numpy_dtype_promotion("standard"):  # as readers have it
        runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_pair_agrees_and_outputs_are_stripped(path):
    notebook = json.loads(path.with_suffix(".ipynb").read_text())
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert ["".join(c["source"]).strip() for c in cells] == code_cells(path.read_text())
    assert not any(c["outputs"] or c["execution_count"] for c in cells)
