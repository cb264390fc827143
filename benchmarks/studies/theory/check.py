"""What a check of one statement returns."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Check:
    """One statement of arXiv 2604.04230 against numbers.

    Attributes:
        name: theorem or lemma.
        statement: what it says.
        rows: one dictionary per setting; `violated` counts games that break the bound.
        verdict: one or two sentences, with the numbers that carry them.
    """

    name: str
    statement: str
    rows: list[dict[str, Any]]
    verdict: str


def share(mask) -> float:
    """Fraction of true entries."""
    return float(sum(map(bool, mask)) / len(mask))
