"""What the two wheels carry beside their code: types, readme, licence, address; and one version everywhere."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECTS = {"mfgjax": ROOT, "mfgjax_extract": ROOT / "extract"}


@pytest.mark.parametrize(("package", "folder"), PROJECTS.items())
def test_a_wheel_says_what_it_is(package, folder):
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert "py.typed" in project["tool"]["setuptools"]["package-data"][package]
    assert (folder / package / "py.typed").read_bytes() == b""
    described = project["project"]
    assert (folder / described["readme"]).stat().st_size > 500
    (licence,) = described["license-files"]
    assert (folder / licence).read_text() == (ROOT / "LICENSE").read_text()
    assert described["urls"]["Paper"] == "https://arxiv.org/abs/2604.04230"


def test_one_version_everywhere():
    found = {
        tomllib.loads((folder / "pyproject.toml").read_text())["project"]["version"]
        for folder in PROJECTS.values()
    }
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert cited is not None
    assert found == {cited[1]}
