"""`mfgjax track` as a user meets it."""

import json

import pytest
from typer.testing import CliRunner

from mfgjax.cli.main import app


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_help_teaches():
    shown = run("track", "--help")
    assert shown.exit_code == 0
    assert "mfgjax track traces/ --out results/" in shown.output


def test_json_is_all_that_is_printed(sweep_folder):
    shown = run("track", sweep_folder, "--resamples", 20, "--json")
    assert shown.exit_code == 0
    stored = json.loads(shown.stdout)
    assert stored["settings"]["resamples"] == 20
    assert len(stored["checkpoints"]) == 6


def test_table_and_files(sweep_folder, tmp_path):
    shown = run("track", sweep_folder, "--resamples", 20, "--out", tmp_path / "new" / "folder")
    assert shown.exit_code == 0
    assert "γ_eff" in shown.stdout
    assert (tmp_path / "new" / "folder" / "trajectory.png").stat().st_size > 10_000


def test_brackets_in_an_error_survive(tmp_path):
    folder = tmp_path / "traces[old]"
    shown = run("track", folder)
    assert "traces[old]: no such folder" in shown.stderr.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["track", "/no/such/folder"], "no such folder"),
        (["track", "{sweep}", "--ci", "95"], "confidence is 95"),
        (["track", "{sweep}", "--stream", "encoder"], "no encoder traces"),
        (["demo", "--run", "nonesuch"], "no bundled run 'nonesuch'"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(sweep_folder, arguments, words):
    shown = run(*[a.format(sweep=sweep_folder) for a in arguments])
    assert shown.exit_code == 2
    assert words in shown.stderr
    assert "Traceback" not in shown.output


def test_an_estimate_without_certificate_is_exit_code_1(sweep_folder, monkeypatch):
    """Every number is printed all the same."""
    import mfgjax

    tracked = mfgjax.track(sweep_folder, resamples=0)
    tracked.status[2, 1] = 2
    monkeypatch.setattr("mfgjax.track", lambda *_, **__: tracked)
    monkeypatch.setattr("mfgjax.report.price_rows.price_rows", lambda *_, **__: None)
    shown = run("track", sweep_folder, "--json")
    assert shown.exit_code == 1
    told = json.loads(shown.stdout)
    assert any("1 of 12 fits are not certified" in remark for remark in told["remarks"])
    shown = run("demo", "--run", "experts16")
    assert shown.exit_code == 1 and "1 of 12 fits are not certified" in shown.stdout
