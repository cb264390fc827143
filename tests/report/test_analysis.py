"""`mfgjax analyze`: every file is there, the tables agree with each other, the report opens offline."""

import io
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mfgjax.cli.main import app
from mfgjax.report.section import Table
from mfgjax.report.sections.paper import footnotes
from mfgjax.report.tables import cell, csv_text, latex, markdown
from mfgjax.trace import TokenTrace, read_trace, write_trace

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def analyzed(sweep_folder, tmp_path_factory):
    """The simulated sweep with token logits of its last checkpoint, analysed by the command."""
    folder = tmp_path_factory.mktemp("traces")
    for path in sweep_folder.glob("*.safetensors"):
        shutil.copy(path, folder)
    rng = np.random.default_rng(5)
    for step in (3000, 6000):
        metadata = read_trace(folder / f"step{step}.statistics.safetensors").metadata
        text = np.repeat(np.arange(metadata.text_count, dtype=np.int32), 60)
        quality = 0.3 * rng.standard_normal((3, metadata.experts))[: len(metadata.layers)]
        noise = rng.standard_normal((len(text), len(metadata.layers), metadata.experts))
        logits = (quality + 2 * noise).astype(np.float32)
        choices = np.argsort(-logits, axis=-1)[..., : metadata.top_k].astype(np.uint8)
        fields = {f: getattr(metadata, f) for f in metadata.__dataclass_fields__}
        tokens = TokenTrace(type(metadata)(**(fields | {"kind": "tokens"})), logits, choices, text)
        write_trace(folder / f"step{step}.tokens.safetensors", tokens)
    out = tmp_path_factory.mktemp("analysis")
    shown = run("analyze", folder, "--out", out, "--resamples", 30, "--types", "2")
    assert shown.exit_code == 0, shown.output
    return out


def test_csv_holds_no_formula_and_every_number():
    names = ["=HYPERLINK(1)", "+1", "@sum", "-x", "layers.0", None]
    number = np.array([-0.1, 1 / 3, np.nan, 2, 3, 4])
    frame = pd.DataFrame({"=name": names, "number": number, "half": number.astype(np.float32)})
    read = pd.read_csv(io.StringIO(csv_text(frame)))
    assert read["'=name"].tolist()[:5] == [f"'{name}" for name in names[:4]] + ["layers.0"]
    np.testing.assert_array_equal(read.number, number)
    assert csv_text(frame).splitlines()[1].endswith(",-0.1,-0.1")  # float32 in its own digits
    assert frame["=name"][0] == names[0]  # the caller's stays


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
    excess = table["permutation_excess"]
    # Independent logits: what there is of congestion, the permutation null explains.
    assert len(excess) == 2 * 3 and excess.excess.abs().max() < 8
    known = excess.dropna(subset="excess")
    assert (known.excess_low < known.excess).all() and (known.excess < known.excess_high).all()
    coupled = table["coupled_layers"]
    assert set(coupled.outcome) == {"converged"}
    assert (coupled.distance <= coupled.bound_without_contraction + 1e-4).all()
    assert coupled.coupled_error.iloc[-1] == pytest.approx(coupled.own_error.iloc[-1], abs=1e-4)
    truncation = table["top_k_truncation"]
    assert (truncation.distance <= truncation.bound_from_mass.fillna(2)).all()
    count = table["type_count"]
    assert count.types.tolist() == [1, 2] * 2
    # Independent logits hold no clusters. The likelihood still wants two types: this router's choice
    # is a function of the logits, and types are all that the model has to tell one from the other.
    assert (count.gap_chooses == 1).all() and (count.likelihood_chooses == 2).all()
    over = table["types_over_training"].groupby(["checkpoint", "layer"]).weight.sum()
    np.testing.assert_allclose(over, 1)
    assert table["type_separation"].checkpoint.unique().tolist() == [3000, 6000]
    published = table["published_table4_heldout_l1"]
    assert published.mfg.mean() == pytest.approx(0.199, abs=1e-3)
    for name in table:
        assert (analyzed / "tables" / f"{name}.md").read_text().startswith("**")
        assert r"\bottomrule" in (analyzed / "tables" / f"{name}.tex").read_text()


def test_scope_card_of_a_router_without_balancing(analyzed):
    card = pd.read_csv(analyzed / "tables" / "scope_card.csv")
    # Independent logits and no balancing: some congestion, but none that dispersion leaves over.
    assert set(card.verdict) <= {"marginal", "out of scope"}
    assert card.reason.str.contains("dispersion").all()
    assert (card.spectral_rate <= card.l1_rate * (1 + 1e-5)).all()
    assert (card.l1_rate <= card.worst_case_rate * (1 + 1e-5)).all()
    assert ((card.max_load_bound < 1) == (card.safety_margin > 1)).all()
    assert (card.contraction_bounds_vacuous == (card.worst_case_rate >= 1)).all()


def test_figures_are_written_twice(analyzed):
    names = {
        "trajectory",
        "heat_map",
        "decomposition",
        "robustness",
        "permutation_excess",
        "heldout_error",
        "continuation",
        "type_count",
        "types_over_training",
    }
    for suffix in ("png", "svg"):
        found = {p.stem: p for p in (analyzed / "figures").glob(f"*.{suffix}")}
        assert set(found) == names
        assert min(p.stat().st_size for p in found.values()) > 8_000


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.targets, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.targets += [value for name, value in attrs if name in ("src", "href")]


def test_report_needs_no_network_and_runs_no_script(analyzed):
    page = Links()
    page.feed((analyzed / "report.html").read_text())
    assert "script" not in page.tags and "link" not in page.tags
    assert page.targets and all(target.startswith("data:") for target in page.targets)
    assert page.tags.count("title") > 50  # hover texts
    assert page.tags.count("img") == 8


def test_report_has_every_table_with_its_data(analyzed):
    text = (analyzed / "report.html").read_text()
    for path in (analyzed / "tables").glob("*.csv"):
        assert f'id="{path.stem}"' in text
        assert f'download="{path.name}"' in text


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine (apt install chromium)")
def test_a_browser_draws_the_report(analyzed, tmp_path):
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1400"]
    picture = tmp_path / "report.png"
    address = (analyzed / "report.html").as_uri()
    done = subprocess.run(
        [BROWSER, *flags, f"--screenshot={picture}", "--enable-logging=stderr", address],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert picture.stat().st_size > 30_000, done.stderr
    assert "CONSOLE" not in done.stderr  # a refused resource or broken picture would be named here


def test_without_token_logits_the_rest_is_there(sweep_folder, tmp_path):
    shown = run("analyze", sweep_folder, "--out", tmp_path, "--resamples", 30)
    assert shown.exit_code == 0
    assert "No token logits" in shown.stdout
    assert not (tmp_path / "tables" / "heldout_error.csv").exists()
    assert (tmp_path / "report.html").exists()


def test_architectures_need_token_logits(sweep_folder):
    shown = run("architectures", sweep_folder)
    assert shown.exit_code == 2
    assert "no decoder trace with token logits" in shown.stderr


def test_bad_types_are_explained(sweep_folder, tmp_path):
    shown = run("analyze", sweep_folder, "--out", tmp_path, "--types", "two")
    assert shown.exit_code == 2
    assert "--types is 'two'" in shown.stderr


def test_cells_markdown_and_latex():
    frame = pd.DataFrame({"layer_name": ["a|b"], "error": [0.123456], "won": [None]})
    assert [cell(v) for v in (None, float("nan"), True, 3.0, 12345.678)] == [
        "-",
        "-",
        "yes",
        "3",
        "1.235e+04",
    ]
    assert "| a\\|b | 0.1235 | - |" in markdown(frame, "Title")
    assert r"layer\_name & error & won \\" in latex(frame, "50% {of}", label="x")
    assert r"\caption{50\% \{of\}.}" in latex(frame, "50% {of}")


def test_footnotes_compute_what_they_say():
    notes = " ".join(footnotes())
    assert "average 18.0 over 16 layers" in notes
    assert "smallest gamma of Table 1 is 8.5" in notes
    assert "implicit over explicit is 17 and 84" in notes
    assert "13.9x at step 40000" in notes
    assert "OLMoE-1B-7B (yes) and Switch-Base-8 (marginal)" in notes
