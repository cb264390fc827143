"""`mfgjax analyze` without token logits, with one checkpoint, and where it has to refuse; its words follow numbers."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
from typer.testing import CliRunner

import mfgjax
from mfgjax.cli.main import app
from mfgjax.report.analysis import Analysis
from mfgjax.report.html import html_report
from mfgjax.report.section import Section, Table
from mfgjax.report.sections.paper import footnotes
from mfgjax.report.verdict import texts_to_tell


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_without_token_logits_the_rest_is_there(sweep_folder, tmp_path):
    shown = run("analyze", sweep_folder, "--out", tmp_path, "--resamples", 40)
    assert shown.exit_code == 0
    assert "No token logits" in shown.stdout
    assert not (tmp_path / "tables" / "heldout_error.csv").exists()
    assert (tmp_path / "report.html").exists()
    excess = pd.read_csv(tmp_path / "tables" / "excess.csv")
    assert set(excess.checkpoint) == {6000}  # the last
    assert excess.dispersion_excess.notna().all()
    assert excess[["permutation_excess", "counterfactual_excess"]].isna().all(axis=None)
    assert set(excess.missing) == {"permutation, counterfactual: no token logits"}


def test_one_checkpoint_shows_its_layers_with_intervals(sweep_folder, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(sweep_folder / "step3000.statistics.safetensors", tmp_path / "one")
    found = mfgjax.analyze(tmp_path / "one", resamples=40)
    table = {table.name: table for table in found.tables}["decomposition"]
    last = found.trajectory.isel(checkpoint=0)
    np.testing.assert_array_equal(table.frame.signed, last.signed)
    np.testing.assert_array_equal(table.frame[["signed_low", "signed_high"]], last.signed_interval)
    pictures = [p.name for section in found.sections for p in section.figures if p.in_page]
    assert "decomposition" in pictures and "trajectory" not in pictures
    assert "NaN" not in html_report(found, {}) and "nan" not in " ".join(found.verdict)
    first = found.sections[0]
    assert [table.title for table in first.tables] == ["Layer averages", "Every layer"]
    assert not any("per-layer tests" in note for note in first.notes)  # they are of changes


def test_texts_to_tell_follows_the_root_of_their_number():
    assert "would take about 800" in texts_to_tell(50, (-2.0, 6.0), 1.0)  # 50 * (4 / 1)^2
    assert "50 texts would show 4 or more" in texts_to_tell(50, (-2.0, 6.0), 4.0)
    for unknown in (texts_to_tell(50, (-np.inf, 1.0), 1.0), texts_to_tell(50, (-1.0, 1.0), 0.0)):
        assert unknown == "50 texts are too few to say more."


def test_architectures_need_token_logits(sweep_folder):
    shown = run("architectures", sweep_folder)
    assert shown.exit_code == 2
    assert "no decoder trace with token logits" in shown.stderr


def test_bad_types_are_explained(sweep_folder, tmp_path):
    shown = run("analyze", sweep_folder, "--out", tmp_path, "--types", "two")
    assert shown.exit_code == 2
    assert "--types is 'two'" in shown.stderr


def test_footnotes_compute_what_they_say():
    notes = " ".join(footnotes())
    assert "average 18.0 over 16 layers" in notes
    assert "smallest gamma of Table 1 is 8.5" in notes
    assert "implicit over explicit is 17 and 84" in notes
    assert "13.9x at step 40000" in notes
    assert "OLMoE-1B-7B (yes) and Switch-Base-8 (marginal)" in notes


def test_names_of_anyones_making_do_not_become_markup(sweep_folder, tmp_path):
    hostile = "<script>alert(1)</script>"
    table = Table("t", hostile, pd.DataFrame({hostile: [hostile]}), hostile)
    section = Section(hostile, (hostile,), (table,), notes=(hostile,), background=(hostile,))
    dataset = mfgjax.track(sweep_folder, resamples=0).assign_attrs(model=hostile)
    analysis = Analysis(SimpleNamespace(dataset=dataset), (section,))  # type: ignore[arg-type]
    assert "<script" not in html_report(analysis, {}).lower()
