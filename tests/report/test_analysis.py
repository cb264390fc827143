"""`mfgjax analyze`: every file is there, the tables agree with each other, the report opens offline."""

import base64
import io
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

import mfgjax
from mfgjax.cli.main import app
from mfgjax.report.analysis import Analysis
from mfgjax.report.html import html_report
from mfgjax.report.section import Lines, Section, Table
from mfgjax.report.sections.paper import footnotes
from mfgjax.report.tables import cell, csv_text, latex, markdown, readable, shown, terminal
from mfgjax.report.verdict import texts_to_tell
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
    """What a mark tells a pointer stands in a cell, which keys and fingers reach."""
    layers = pd.read_csv(analyzed / "tables" / "layers.csv")
    for name in ("congestion", "signed", "dispersion_excess"):
        digits = 1 if layers[name].abs().max() >= 10 else 2
        for value in layers[name]:
            assert f"{value:.{digits}f}".replace("-", "−") in page.cells
    average = pd.read_csv(analyzed / "tables" / "trajectory.csv")
    for row in average.itertuples():
        ends = [cell(v, 3) for v in (row.mean_signed_low, row.mean_signed_high)]
        assert f"{cell(row.mean_signed)} [{ends[0]}, {ends[1]}]" in page.cells


def test_report_has_every_table_with_its_data(analyzed, page):
    text = (analyzed / "report.html").read_text()
    for path in (analyzed / "tables").glob("*.csv"):
        assert path.stem in page.ids
        data = base64.b64encode(path.read_bytes()).decode()
        assert f'download="{path.name}" href="data:text/csv;base64,{data}"' in text


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
    excess = pd.read_csv(tmp_path / "tables" / "excess.csv")
    assert set(excess.checkpoint) == {6000}  # the last
    assert excess.dispersion_excess.notna().all()
    assert excess[["permutation_excess", "counterfactual_excess"]].isna().all(axis=None)
    assert set(excess.missing) == {"permutation, counterfactual: no token logits"}


def test_one_checkpoint_shows_its_layers_with_intervals(sweep_folder, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(sweep_folder / "step3000.statistics.safetensors", tmp_path / "one")
    found = mfgjax.analyze(tmp_path / "one", resamples=20)
    lines = found.sections[0].hover[0]
    assert isinstance(lines, Lines) and not lines.joined
    last = found.trajectory.isel(checkpoint=0)
    value, interval = lines.series["signed congestion"]
    np.testing.assert_array_equal(value, last.signed)
    np.testing.assert_array_equal(interval, last.signed_interval)
    assert "NaN" not in html_report(found, {}) and "nan" not in " ".join(found.verdict)
    first = found.sections[0]
    assert [table.title for table in first.tables] == ["Layer averages", "Every layer"]
    assert not any(picture.in_page for picture in first.figures)  # the decomposition shows the same
    assert not any("per-layer tests" in note for note in first.notes)  # they are of changes


def test_names_of_anyones_making_do_not_become_markup(sweep_folder, tmp_path):
    hostile = "<script>alert(1)</script>"
    table = Table("t", hostile, pd.DataFrame({hostile: [hostile]}), hostile)
    section = Section(hostile, (hostile,), (table,), notes=(hostile,), background=(hostile,))
    dataset = mfgjax.track(sweep_folder, resamples=0).assign_attrs(model=hostile)
    analysis = Analysis(SimpleNamespace(dataset=dataset), (section,))  # type: ignore[arg-type]
    page = Page(html_report(analysis, {}))
    assert "script" not in page.tags


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


def test_cells_are_short_and_whole():
    shown = [cell(v) for v in (None, float("nan"), True, 3.0, 12345.678, -0.25, float("inf"), "a")]
    assert shown == ["-", "-", "yes", "3", "12346", "−0.25", "∞", "a"]
    assert cell(1.23456e-7) == "1.235e-07"


def test_intervals_stand_in_brackets_beside_their_estimates():
    frame = pd.DataFrame(
        {
            "a_low": [0.0],
            "a": [1.0],
            "a_high": [2.0],
            "difference": [-1.5],
            "low": [-2.0],
            "high": [0.5],
        }
    )
    frame["alone_low"], frame["alone_high"] = 1.0, 2.0
    frame["none"], frame["none_low"], frame["none_high"] = 4.0, np.nan, np.nan
    assert readable(frame).iloc[0].to_dict() == {
        "a": "1 [0, 2]",
        "difference": "−1.5 [−2, 0.5]",
        "alone": "[1, 2]",
        "none": "4",
    }


def test_markdown_and_latex_show_eight_columns_escaped():
    frame = pd.DataFrame({"layer_name": ["a|b_{c}"], "error": [0.123456], "won": [None]})
    for number in range(9):
        frame[f"x{number}"] = number
    table = Table("my_table", "50% {of} γ", frame, "See #1.")
    text = markdown(shown(table), table.title, table.note)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 3 and all(row.replace("\\|", "").count("|") == 9 for row in rows)
    assert "a\\|b_{c}" in rows[2] and "0.1235" in rows[2]
    text = latex(table)
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert r"\caption{50\% \{of\} $\gamma$. See \#1.}" in text
    assert r"\label{tab:my_table}" in text
    assert r"\begin{tabular}{lrlrrrrr}" in text
    assert r"layer name & error & won & x0" in text
    assert r"a|b\_\{c\} & 0.1235 & -" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_terminal_tables_fit_and_sentences_wrap(width):
    frame = pd.DataFrame({"layer": ["layers.0.gate"], "reason": ["no congestion here " * 4]})
    for number in range(9):
        name = f"quantity{number}"
        frame[name], frame[f"{name}_low"], frame[f"{name}_high"] = 1.25, -100.0, 100.0
    made = terminal(Table("t", "A title", frame, "A note."), width)
    console = Console(width=width, file=io.StringIO())
    console.print(made)
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert 2 <= len(made.columns) <= 8
    assert "no congestion here no congestion" in " ".join(" ".join(lines).split())
    assert ("1.25 [−100, 100]" in " ".join(lines)) == (width > 60)


def test_footnotes_compute_what_they_say():
    notes = " ".join(footnotes())
    assert "average 18.0 over 16 layers" in notes
    assert "smallest gamma of Table 1 is 8.5" in notes
    assert "implicit over explicit is 17 and 84" in notes
    assert "13.9x at step 40000" in notes
    assert "OLMoE-1B-7B (yes) and Switch-Base-8 (marginal)" in notes
