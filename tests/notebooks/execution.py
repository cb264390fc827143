"""Runs notebooks as a reader runs them. Two files of tests share them, so that two workers do."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
HALVES = NOTEBOOKS[:4], NOTEBOOKS[4:]
DRAWS = ("plt.subplots(", "_figure(", ".plot(")
# A kernel loads its packages once for all notebooks of a file; names and settings are a new one's.
# Imported modules stay, and full garbage collections walk them: fewer of those.
AS_NEW = """%reset -sf
import gc
import jax
gc.set_threshold(100_000)
jax.config.update("jax_enable_x64", False)
del gc, jax"""


def images(cell) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def check_notebook(path: Path, kernel) -> None:
    """It runs, each cell that draws shows one image, and nothing complains."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(AS_NEW))
    client = NotebookClient(notebook, kernel, timeout=300, resources={"metadata": {"path": FOLDER}})
    client.execute()
    client.kc.stop_channels()
    for cell in notebook.cells[1:]:
        if cell.cell_type == "code":
            assert images(cell) == any(call in cell.source for call in DRAWS), cell.source
            said = "".join(o.text for o in cell.outputs if o.get("name") == "stderr")
            assert not said or "TqdmWarning" in said, said  # tqdm asks for ipywidgets
