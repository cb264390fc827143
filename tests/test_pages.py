"""README and docs show what the repository holds: their blocks, commands, figures."""

import re
from pathlib import Path

import pytest

from benchmarks.pages import PAGES, blocks, rewrite

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_generated_blocks_are_current(page):
    text = page.read_text()
    assert "<!-- begin" in text
    assert rewrite(text, blocks()) == text, "run `python -m benchmarks.pages`"


def test_linked_files_exist():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_make_targets_exist():
    targets = set(re.findall(r"^make ([\w-]+)|`make ([\w-]+)", README, flags=re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    for target in {name for pair in targets for name in pair if name}:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
