"""Every notebook runs, shows each figure once, and is paired with its .py. The other half runs in
test_more_notebooks.py."""

import jupytext
import nbformat
import pytest

from .execution import HALVES, NOTEBOOKS, check_notebook


def code(notebook) -> list[str]:
    return [cell.source.strip() for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) > 1


@pytest.mark.parametrize("path", HALVES[0], ids=lambda p: p.stem)
def test_runs_and_shows_each_figure_once(path, kernel):
    check_notebook(path, kernel)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_pair_agrees_and_outputs_are_stripped(path):
    notebook = nbformat.read(path, as_version=4)
    assert code(notebook) == code(jupytext.read(path.with_suffix(".py")))
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
