"""The README shows what the repository holds: its blocks, its commands, its figures."""

import re
from pathlib import Path

from benchmarks.pages import blocks, rewrite

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_generated_blocks_are_current():
    assert rewrite(README, blocks()) == README, "run `make readme`"


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
