"""The other half of the notebooks, for the second worker."""

import pytest

from .execution import NOTEBOOKS, check_notebook


@pytest.mark.parametrize("path", NOTEBOOKS[3:], ids=lambda p: p.stem)
def test_runs_and_shows_each_figure_once(path):
    check_notebook(path)
