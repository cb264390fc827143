"""The site builds without a warning and knows every public name."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES_OF_MODULES = {
    *("index", "names", "report", "extractor"),
    *("dynamics", "metrics", "token_types"),  # packages without names of their own
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    environment = {**os.environ, "MFGJAX_DOCS_NOTEBOOKS": "off"}
    environment.pop("PYTHONWARNINGS", None)
    built = subprocess.run(
        [*command, "-d", str(folder / "trees"), str(DOCS), str(folder / "html")],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert built.returncode == 0, built.stderr[-4000:]
    return folder / "html"


def public_names():
    pages = {path.stem for path in (DOCS / "reference").glob("*.md")}
    packages = [f"mfgjax.{page}" for page in pages - PAGES_OF_MODULES]
    for package in [*packages, "mfgjax_extract"]:
        module = importlib.import_module(package)
        yield from ((module, name) for name in module.__all__)


def test_every_public_name_is_in_the_reference(site):
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, uri: uri)
    known = {name for kind in inventory.values() for name in kind}
    undocumented = {
        f"{module.__name__}.{name}"
        for module, name in public_names()
        if f"{module.__name__}.{name}" not in known
        and (inspect.isroutine(getattr(module, name)) or inspect.isclass(getattr(module, name)))
    }
    assert not undocumented


def test_every_stage_has_a_reference_page():
    pages = {path.stem for path in (DOCS / "reference").glob("*.md")}
    stages = {path.parent.name for path in (ROOT / "mfgjax").glob("*/__init__.py")}
    assert stages - pages == {"bundled", "cli", "doctor", "engines", "numerics"}, (
        "those have no public names"
    )


def test_pages_draw_formulas_without_a_network(site):
    page = (site / "theory.html").read_text()
    assert page.count("<math") > 50
    fetched = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]*)"', page)
    assert not fetched


UNDRAWN = re.compile(r"\\[A-Za-z]+|\$\S[^$]*\$")
"""A command of LaTeX, or dollars around something: what a formula that was not drawn leaves."""


def undrawn(page: str) -> list[str]:
    """What is left of LaTeX in a page, in its formulas and in its words; code is left out."""
    formulas = "".join(re.findall(r"<math.*?</math>", page, flags=re.DOTALL))
    code = r"<(script|style|pre|code|math|dt|title)\b.*?</\1>"
    words = re.sub(r"<[^>]*>", "", re.sub(code, "", page, flags=re.DOTALL))
    return [found for text in (formulas, words) for found in UNDRAWN.findall(text)]


def test_no_page_shows_latex(site):
    assert undrawn(r"<math><mi>\foo</mi></math> and $x_1$") == [r"\foo", "$x_1$"]
    pages = list(site.rglob("*.html"))
    left = {str(path.relative_to(site)): undrawn(path.read_text()) for path in pages}
    assert len(pages) > 40
    assert not {page: found for page, found in left.items() if found}


def test_public_functions_have_docstrings():
    bare = [
        f"{module.__name__}.{name}"
        for module, name in public_names()
        if inspect.isroutine(getattr(module, name)) and not inspect.getdoc(getattr(module, name))
    ]
    assert not bare
