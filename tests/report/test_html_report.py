"""The page of an analysis: opens offline, begins with what was found, tells every value, draws in a browser."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import pandas as pd
import pytest

import mfgjax
from mfgjax.report.analysis import Analysis
from mfgjax.report.html import html_report
from mfgjax.report.section import Section, Table
from mfgjax.report.tables import cell

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


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


def test_names_of_anyones_making_do_not_become_markup(sweep_folder, tmp_path):
    hostile = "<script>alert(1)</script>"
    table = Table("t", hostile, pd.DataFrame({hostile: [hostile]}), hostile)
    section = Section(hostile, (hostile,), (table,), notes=(hostile,), background=(hostile,))
    dataset = mfgjax.track(sweep_folder, resamples=0).assign_attrs(model=hostile)
    analysis = Analysis(SimpleNamespace(dataset=dataset), (section,))  # type: ignore[arg-type]
    page = Page(html_report(analysis, {}))
    assert "script" not in page.tags
