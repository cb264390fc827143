"""`mfgjax analyze` on a sweep with token logits: its tables agree, every file is there, its page is whole."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mfgjax.cli.main import app
from mfgjax.report.sections import held_out
from mfgjax.report.tables import cell
from mfgjax.trace import TokenTrace, read_trace, write_trace

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


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
    # Resamples as elsewhere: one program for all. Nothing here is of the refits but that there are some.
    words = ["analyze", str(folder), "--out", str(out), "--resamples", "40", "--types", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out, "REFITS", 4)
        patch.setattr(held_out, "_SPLITS", 2)
        shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    return out


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


class Page(HTMLParser):
    """Tags, targets and identities of a page, and the text of each table cell by section."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.tags, self.ids, self.cells, self.widest = [], [], [], [], 0
        self.open_details = self.columns = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.targets += [value for name, value in attrs if name in ("src", "href")]
        self.ids += [value for name, value in attrs if name == "id"]
        self.open_details += tag == "details"
        if tag == "tr":
            self.columns = 0
        if tag in ("td", "th") and not self.open_details and ("title" not in dict(attrs)):
            self.columns += 1
            self.widest = max(self.widest, self.columns)

    def handle_endtag(self, tag):
        self.open_details -= tag == "details"

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ("td", "th"):
            self.cells.append(data)


@pytest.fixture(scope="module")
def page(analyzed):
    return Page((analyzed / "report.html").read_text())


def test_report_needs_no_network_and_runs_no_script(page):
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.targets and all(target.startswith(("data:", "#")) for target in page.targets)
    assert page.tags.count("img") == 8
    assert len(page.ids) == len(set(page.ids))
    assert {target[1:] for target in page.targets if target[0] == "#"} <= set(page.ids)


def test_report_begins_with_what_was_found_and_shows_at_most_eight_columns(analyzed, page):
    text = (analyzed / "report.html").read_text()
    assert text.index("What was found") < text.index("Contents") < text.index("<figure>")
    assert page.widest == 8  # heat maps apart; the rest is folded away
    verdict = text[: text.index("Contents")]
    for words in (
        "Effective congestion",
        "permutation null",
        "Of 2 layers the game is",
        "held-out",
    ):
        assert words in verdict


def test_report_tells_every_value_without_a_pointer(analyzed, page):
    """What a picture draws stands in a cell, which keys and fingers reach."""
    layers = pd.read_csv(analyzed / "tables" / "layers.csv")
    for name in ("congestion", "signed", "dispersion_excess"):
        digits = 1 if layers[name].abs().max() >= 10 else 2
        for value in layers[name]:
            assert f"{value:.{digits}f}".replace("-", "−") in page.cells
    average = pd.read_csv(analyzed / "tables" / "trajectory.csv")
    for row in average.itertuples():
        ends = [cell(v, 3) for v in (row.mean_signed_low, row.mean_signed_high)]
        assert f"{cell(row.mean_signed, 3)} [{ends[0]}, {ends[1]}]" in page.cells


def test_report_has_every_table_with_its_data(analyzed, page):
    text = (analyzed / "report.html").read_text()
    for path in (analyzed / "tables").glob("*.csv"):
        assert path.stem in page.ids
        data = base64.b64encode(path.read_bytes()).decode()
        assert f'download="{path.name}" href="data:text/csv;base64,{data}"' in text


def test_paper_gets_every_short_table_and_the_file_of_every_long_one(analyzed):
    """In print nothing unfolds: what stays folded names its file."""
    text = (analyzed / "report.html").read_text()
    long = set(re.findall(r'<details class="table[^"]* long" id="(\w+)">', text))
    rows = {p.stem: len(pd.read_csv(p)) for p in (analyzed / "tables").glob("*.csv")}
    assert long == {name for name, count in rows.items() if count > 40}
    assert "balance_percentiles" in long and "trajectory" not in long
    named = set(re.findall(r'<span class="printed">[^<]*tables/(\w+)\.csv', text))
    assert long < named
    for part in text.split('<details class="every">')[:-1]:
        assert part.rstrip().endswith(".csv.</span></p>")


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
