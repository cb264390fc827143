"""The sections of a report, in order: a file each, whose `section(inputs)` says what it has."""

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING

from mfgjax.report.section import Section

if TYPE_CHECKING:  # `track` shows a table of one section and computes none of the inputs
    from mfgjax.report.inputs import Inputs

SECTIONS = (
    "dynamics",
    "price",
    "decomposition",
    "nulls",
    "scope",
    "adjacent_layers",
    "held_out",
    "architectures",
    "token_types",
    "sensitivity",
    "balance",
    "paper",
)
"""File names of this folder. A new section is one file and one line here."""


def sections_of(inputs: "Inputs") -> Iterator[Section]:
    """Every section that has something to say of `inputs`, one after the other."""
    for name in SECTIONS:
        found = import_module(f"{__name__}.{name}").section(inputs)
        if found is not None:
            yield found
