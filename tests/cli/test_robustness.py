"""`mfgjax robustness` as a user meets it; the fits themselves are tested in tests/estimate."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mfgjax.cli.main import app
from mfgjax.estimate.inference.sensitivity import SensitivityTable, compare_trajectories
from mfgjax.report import inputs

PATHS = {
    "mean": [0, 1, 4, 6, 5, 3.0],
    "split-half": [1, 3, 4, 7, 7, 3.0],
    "median": [1, np.nan, np.nan, 8, np.nan, 4.0],
}


@pytest.fixture
def made_up(monkeypatch):
    """Fits of two objectives that anyone can check, in place of real ones."""
    paths = {name: np.array(path)[:, None] for name, path in PATHS.items()}
    rows = [paths[name] + shift for shift in (0, -5) for name in paths]
    own = [compare_trajectories({n: p + s for n, p in paths.items()}, "mean") for s in (0, -5)]
    pairs = [(objective, name) for objective in ("l1", "kl") for name in paths]
    every = {" ".join(pair): row for pair, row in zip(pairs, rows, strict=True)}
    table = SensitivityTable(
        objective=tuple(objective for objective, _ in pairs),
        quality=tuple(name for _, name in pairs),
        congestion=np.stack(rows),
        with_mean=tuple(own),
        with_reference=compare_trajectories(every, "l1 mean"),
        reference=("l1", "mean"),
        checkpoints=np.array([6, 6, 3] * 2),
        unsolved=np.zeros(6, int),
    )
    monkeypatch.setattr(inputs, "estimate_sensitivity", lambda *_, **__: table)


def test_correlations_stand_beside_the_published_ones(sweep_folder, made_up, tmp_path):
    words = ["robustness", str(sweep_folder), "--out", str(tmp_path), "--json"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    tables = json.loads(shown.stdout)["tables"]
    rows = pd.DataFrame(tables["robustness"]["rows"]).set_index(["objective", "quality"])
    halves = np.corrcoef(PATHS["mean"], PATHS["split-half"])[0, 1]
    assert rows.correlation["l1", "split-half"] == pytest.approx(halves)
    assert rows["shift"]["l1", "median"] == pytest.approx(4 / 3)
    assert f"r = {halves:.2f} (split-half, 6 checkpoints)" in tables["robustness"]["note"]
    assert tables["robustness_trajectories"]["rows"][1]["l1 median"] is None
    published = pd.DataFrame(tables["published_figure2_robustness"]["rows"])
    assert set(published.correlation_at_least) == {0.89}
    assert (tmp_path / "figures" / "robustness.svg").stat().st_size > 8_000
