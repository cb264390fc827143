"""What the command line sets for a whole sweep."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from mfgjax_extract.revisions import Revision

MOST_BLOCKS = 8
"""Blocks of texts to keep choice bounds for; here, because routers need this file and bounds need routers."""


@dataclass(frozen=True)
class SweepSettings:
    """What the command line sets, for all checkpoints.

    Attributes:
        name: model name stored in the traces.
        out: folder for the traces.
        tokens: globs of revisions that also get the tokens form.
        dtype: dtype to load in, "auto" for the checkpoint's own.
        device: device to run on.
        batch_tokens: most rows of one forward.
        max_tokens: most tokens kept of each text.
        logit_dtype: stored precision of token logits.
        layers: regular expression; only routers whose path it finds are recorded.
        choice_blocks: most blocks of texts to keep choice bounds for; 0 for none.
        trust_remote_code: run code that comes with the checkpoint.
        overwrite: replace files of other models, texts or settings.
        verify: read files that are done and compare their digest.
    """

    name: str
    out: Path
    tokens: tuple[str, ...] = ("*",)
    dtype: str = "auto"
    device: str = "cpu"
    batch_tokens: int = 4096
    max_tokens: int | None = 2048
    logit_dtype: type[np.generic] = np.float16
    layers: str = ""
    choice_blocks: int = MOST_BLOCKS
    trust_remote_code: bool = False
    overwrite: bool = False
    verify: bool = False

    def __post_init__(self):
        layers_pattern(self.layers)  # a bad one is told before a model is loaded


def kinds_for(revision: Revision, settings: SweepSettings) -> tuple[str, ...]:
    """The forms to write for `revision`: statistics always, tokens where asked for."""
    tokens = any(fnmatchcase(revision.name, pattern) for pattern in settings.tokens)
    return ("statistics", "tokens") if tokens else ("statistics",)


def layers_pattern(layers: str) -> re.Pattern[str]:
    """`layers` compiled; raises `ValueError` if it is no regular expression."""
    try:
        return re.compile(layers)
    except re.error as error:
        raise ValueError(
            f"--layers {layers!r} is not a regular expression: {error}. Put a backslash before a "
            "bracket or dot that is meant as itself"
        ) from None
