"""Runs a notebook as a reader runs it. Two files of tests share them, so that two workers do."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
DRAWS = ("plt.subplots(", "_figure(", ".plot(")


def images(cell) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def check_notebook(path: Path) -> None:
    """It runs, each cell that draws shows one image, and nothing complains."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": FOLDER}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert images(cell) == any(call in cell.source for call in DRAWS), cell.source
            said = "".join(o.text for o in cell.outputs if o.get("name") == "stderr")
            assert not said or "TqdmWarning" in said, said  # tqdm asks for ipywidgets
