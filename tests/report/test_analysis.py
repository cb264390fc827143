"""`mfgjax analyze`: its tables agree with each other, every file is there, words follow numbers."""

import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import mfgjax
from mfgjax.cli.main import app
from mfgjax.report.html import html_report
from mfgjax.report.sections.paper import footnotes
from mfgjax.report.verdict import texts_to_tell


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_tables_agree_with_each_other(analyzed):
    table = {path.stem: pd.read_csv(path) for path in (analyzed / "tables").glob("*.csv")}
    decomposition = table["decomposition"]
    np.testing.assert_allclose(decomposition.explicit, 0.01 * 16)
    np.testing.assert_allclose(
        decomposition.implicit, decomposition.congestion - decomposition.explicit, rtol=1e-6
    )
    last = table["layers"].query("checkpoint == 6000")
    np.testing.assert_allclose(decomposition.signed, last.signed)
    np.testing.assert_allclose(table["scope_card"].congestion, last.congestion, rtol=1e-5)
    np.testing.assert_allclose(
        table["balance"].query("checkpoint == 6000").entropy, last.entropy, rtol=1e-5
    )
    by_layer = table["heldout_l1_by_layer"]
    by_model = table["heldout_error"].set_index("model").l1_all
    assert by_model["MFG"] == pytest.approx(by_layer.MFG.mean())
    architecture = table["cross_architecture"].iloc[0]
    assert architecture.l1_mfg == pytest.approx(by_model["MFG"])
    assert architecture.k_over_m == 4 / 16
    assert len(table["continuation"]) == 1
    robustness = table["robustness"].set_index(["objective", "quality"])
    signed = table["trajectory"].mean_signed
    assert robustness["last"]["kl", "mean"] == pytest.approx(signed.iloc[-1], rel=1e-4)
    assert robustness.checkpoints["kl", "median"] == 2  # two checkpoints have their tokens
    excess = table["excess"]
    assert len(excess) == 2 * 3
    # Independent logits: what there is of congestion, the permutation null explains; and choices are
    # the top-K of the router's own logits.
    assert excess.permutation_excess.abs().max() < 8
    known = excess.dropna(subset="permutation_excess")
    assert (known.counterfactual_excess == 0).all()
    for null in ("dispersion", "permutation"):
        value, low, high = (known[f"{null}_excess{end}"] for end in ("", "_low", "_high"))
        assert (low < value).all() and (value < high).all()
    layers = known[known.layer != "average of layers"]
    for null in ("dispersion", "permutation", "counterfactual"):
        left = layers.congestion - layers[f"{null}_null"]
        np.testing.assert_allclose(layers[f"{null}_excess"], left, atol=1e-3)  # float32, twice
    missing = excess.missing.notna()
    assert (missing == excess.permutation_excess.isna()).all()
    coupled = table["coupled_layers"]
    assert set(coupled.outcome) == {"converged"}
    assert (coupled.distance <= coupled.bound_without_contraction + 1e-4).all()
    assert coupled.coupled_error.iloc[-1] == pytest.approx(coupled.own_error.iloc[-1], abs=1e-4)
    truncation = table["top_k_truncation"]
    # A bound on fixed points: where responses cycle there is none, and no bound.
    assert (truncation.bound_from_mass.isna() == (truncation.outcome == "cycle")).all()
    assert ((truncation.period > 0) == (truncation.outcome == "cycle")).all()
    count = table["type_count"]
    assert count.types.tolist() == [1, 2] * 2
    # Independent logits hold no clusters. The likelihood still wants two types: this router's choice
    # is a function of the logits, and types are all that the model has to tell one from the other.
    assert (count.gap_chooses == 1).all() and (count.likelihood_chooses == 2).all()
    over = table["types_over_training"].groupby(["checkpoint", "layer"]).weight.sum()
    np.testing.assert_allclose(over, 1)
    assert table["type_separation"].checkpoint.unique().tolist() == [3000, 6000]
    for name in table:
        assert (analyzed / "tables" / f"{name}.md").read_text().startswith("**")
        assert r"\bottomrule" in (analyzed / "tables" / f"{name}.tex").read_text()


def test_scope_card_of_a_router_without_balancing(analyzed):
    card = pd.read_csv(analyzed / "tables" / "scope_card.csv")
    last = pd.read_csv(analyzed / "tables" / "layers.csv").query("checkpoint == 6000")
    for name in ("congestion", "dispersion_excess"):  # one number, one interval
        for end in (f"{name}_low", f"{name}_high"):
            np.testing.assert_allclose(card[end], last[end], rtol=1e-5, atol=1e-6)
    # Independent logits and no balancing: some congestion, but none that dispersion leaves over.
    assert set(card.verdict) <= {"marginal", "out of scope"}
    assert card.reason.str.contains("dispersion").all()
    assert (card.spectral_rate <= card.l1_rate * (1 + 1e-5)).all()
    assert (card.l1_rate <= card.worst_case_rate * (1 + 1e-5)).all()
    assert ((card.max_load_bound < 1) == (card.safety_margin > 1)).all()
    assert (card.contraction_bounds_vacuous == (card.worst_case_rate >= 1)).all()


def test_every_figure_is_written_for_screen_edit_and_print(analyzed):
    names = {
        "trajectory",
        "heat_map",
        "decomposition",
        "robustness",
        "excess",
        "heldout_error",
        "continuation",
        "type_count",
        "types_over_training",
    }
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for suffix, magic in begins.items():
        found = {p.stem: p for p in (analyzed / "figures").glob(f"*.{suffix}")}
        assert set(found) == names
        assert all(p.read_bytes().startswith(magic) for p in found.values())


def test_without_token_logits_the_rest_is_there(sweep_folder, tmp_path):
    shown = run("analyze", sweep_folder, "--out", tmp_path, "--resamples", 30)
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
    found = mfgjax.analyze(tmp_path / "one", resamples=20)
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
