"""The fits in a terminal: whole numbers, whole words, however narrow."""

import io

import numpy as np
import pytest
from rich.console import Console

from mfgjax.equilibrium import Status
from mfgjax.estimate.congestion.result import CongestionFit
from mfgjax.report.fit_table import fit_frame, fit_table


@pytest.fixture
def frame():
    layers = ("layers.0.gate", "layers.1.gate")
    fit = CongestionFit(
        congestion=np.array([13.8249, np.nan]),
        residual=np.array([0.0449, 2.0]),
        minima=np.array([3, 1]),
        at_boundary=np.array([False, True]),
        standard_error=np.array([2.017, np.nan]),
        gap=np.array([1e-9, np.nan]),
        steps=np.array([1, 1]),
        status=np.array([Status.CONVERGED, Status.UNIDENTIFIED]),
    )
    return fit_frame({"l1": fit}, layers)


@pytest.mark.parametrize(("width", "columns"), [(47, 4), (56, 5), (72, 7), (80, 8), (120, 8)])
def test_fewer_columns_not_fewer_digits(frame, width, columns):
    console = Console(width=width, file=io.StringIO())
    table = fit_table(frame, "step5", "two layers.", width)
    console.print(table)
    shown = console.file.getvalue()
    assert len(table.columns) == columns
    assert all(len(line) <= width for line in shown.splitlines())
    for word in ("layers.0.gate", "13.8 ± 2", "UNIDENTIFIED"):
        assert word in shown
    assert ("wider terminal" in " ".join(shown.split())) == (columns < 8)


def test_layers_are_named_as_they_are(frame):
    console = Console(width=120, file=io.StringIO())
    console.print(fit_table(frame.assign(layer="l[/i]"), "a[/b]", "c[/d]"))
    shown = console.file.getvalue()
    assert all(name in shown for name in ("l[/i]", "a[/b]", "c[/d]"))
