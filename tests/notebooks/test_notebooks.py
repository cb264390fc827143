"""Every notebook runs as a reader runs it, shows each figure once, and is paired with its .py."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
DRAWS = ("plt.subplots(", "_figure(", ".plot(")


def code(notebook) -> list[str]:
    return [cell.source.strip() for cell in notebook.cells if cell.cell_type == "code"]


def images(cell) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_and_shows_each_figure_once(path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": FOLDER}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert images(cell) == any(call in cell.source for call in DRAWS), cell.source
            said = "".join(o.text for o in cell.outputs if o.get("name") == "stderr")
            assert not said or "TqdmWarning" in said, said  # tqdm asks for ipywidgets


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_pair_agrees_and_outputs_are_stripped(path):
    notebook = nbformat.read(path, as_version=4)
    assert code(notebook) == code(jupytext.read(path.with_suffix(".py")))
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
