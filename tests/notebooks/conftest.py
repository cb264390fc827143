"""One kernel for the notebooks of a file."""

import nbformat
import pytest
from jupyter_core.utils import run_sync
from nbclient import NotebookClient


@pytest.fixture(scope="module")
def kernel():
    manager = NotebookClient(nbformat.v4.new_notebook()).create_kernel_manager()
    yield manager
    run_sync(manager.shutdown_kernel)(now=True)
