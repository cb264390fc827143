"""The other half of the notebooks, for the second worker."""

import pytest

from .execution import HALVES, check_notebook


@pytest.mark.parametrize("path", HALVES[1], ids=lambda p: p.stem)
def test_runs_and_shows_each_figure_once(path, kernel):
    check_notebook(path, kernel)
