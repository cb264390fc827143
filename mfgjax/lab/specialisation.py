"""What experts specialise in: information about domains and bytes, and which are chosen together."""

import numpy as np
from jaxtyping import Bool, Int

BYTE_CLASSES = ("letter", "digit", "space", "line end", "punctuation", "other")


def byte_class(values: Int[np.ndarray, " token"]) -> Int[np.ndarray, " token"]:
    """Number of each byte's class in `BYTE_CLASSES`."""
    table = np.full(256, BYTE_CLASSES.index("other"))
    for value in range(128):
        letter = chr(value)
        if letter.isalpha():
            table[value] = 0
        elif letter.isdigit():
            table[value] = 1
        elif letter in " \t":
            table[value] = 2
        elif letter in "\n\r":
            table[value] = 3
        elif letter.isprintable():
            table[value] = 4
    return table[values]


def mutual_information(
    group: Int[np.ndarray, " token"], chosen: Bool[np.ndarray, "token expert"]
) -> float:
    """Between the group of a token and the expert of one of its choices, in nats.

    The bias of few counts is taken off (Miller and Madow), as if choices were independent; those of one text are
    not, so a router that reads nothing of the token (`random`) shows what is left of it.
    """
    joint = np.stack([chosen[group == g].sum(0) for g in np.unique(group)]).astype(float)
    total = joint.sum()
    if not total:
        return float("nan")
    rows, columns = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    filled = joint > 0
    ratio = joint * total / np.where(rows * columns > 0, rows * columns, 1)
    found = (joint[filled] * np.log(ratio[filled])).sum() / total
    bias = filled.sum() - (rows > 0).sum() - (columns > 0).sum() + 1
    return float(found - bias / (2 * total))


def co_activation(chosen: Bool[np.ndarray, "token expert"]) -> float:
    """Root mean square correlation of two experts' being chosen, above that of K drawn at random.

    K of M at random correlate by -1/(M - 1). Experts never or always chosen have no correlation and are
    left out.
    """
    used = (chosen.mean(0) > 0) & (chosen.mean(0) < 1)
    count = int(used.sum())
    if count < 2:
        return float("nan")
    correlation = np.corrcoef(chosen[:, used].astype(float).T)
    off = correlation[~np.eye(count, dtype=bool)] + 1 / (chosen.shape[1] - 1)
    return float(np.sqrt((off**2).mean()))
