"""Words for what was found: an estimate with its interval, and how many texts would tell."""

from collections.abc import Sequence

import numpy as np

from mfgjax.report.tables import cell


def number(value: float) -> str:
    """Three digits."""
    return cell(float(value), 3)


def estimate(value: float, ends: Sequence[float]) -> str:
    """An estimate with its interval."""
    return f"{number(value)} [{number(ends[0])}, {number(ends[1])}]"


def texts_to_tell(texts: int, ends: Sequence[float], effect: float) -> str:
    """How many texts would tell an effect from 0: intervals narrow with the root of their number.

    Args:
        texts: that the interval rests on.
        ends: of the interval.
        effect: to be told from 0, in the interval's unit.
    """
    half = (ends[1] - ends[0]) / 2
    if not (np.isfinite(half) and effect > 0):
        return f"{texts} texts are too few to say more."
    needed = texts * (half / effect) ** 2
    if needed <= texts:
        return f"{texts} texts would show {number(effect)} or more."
    size = 10.0 ** (np.floor(np.log10(needed)) - 1)
    return (
        f"{texts} texts are too few to tell: {number(effect)} would take about "
        f"{np.ceil(needed / size) * size:,.0f}, as intervals narrow with the root of their number."
    )
