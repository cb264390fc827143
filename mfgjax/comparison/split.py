"""The three-way split by text: quality is fitted on A, types found on B, errors measured on C."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Split:
    """Texts of each part, ascending; no text is in two."""

    fit: np.ndarray
    cluster: np.ndarray
    held_out: np.ndarray


def three_way_split(token_count: np.ndarray, seed: int = 0) -> Split:
    """Split texts at random into three parts of about equally many tokens.

    Whole texts go to one part: tokens of a text are alike, and a split by token would leak.

    Args:
        token_count: tokens of each text.
        seed: of the order in which texts are dealt.

    Raises:
        ValueError: with fewer than three texts that hold tokens.
    """
    token_count = np.asarray(token_count)
    filled = np.flatnonzero(token_count > 0)
    if len(filled) < 3:
        raise ValueError(
            f"{len(filled)} texts hold tokens; a three-way split needs at least 3, "
            "and some dozens to mean anything"
        )
    parts: list[list[int]] = [[], [], []]
    tokens = np.zeros(3)
    for text in np.random.default_rng(seed).permutation(filled):
        smallest = int(tokens.argmin())
        parts[smallest].append(int(text))
        tokens[smallest] += token_count[text]
    fit, cluster, held_out = (np.array(sorted(part)) for part in parts)
    return Split(fit, cluster, held_out)
