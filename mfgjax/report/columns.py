"""Columns `x`, `x_low` and `x_high` of an estimate and its interval."""

from typing import Any

import numpy as np

from mfgjax.estimate.inference.interval import confidence_interval


def interval_columns(name: str, drawn: np.ndarray, confidence: float) -> dict[str, Any]:
    """The three columns, with the percentile interval over resamples.

    Args:
        name: of the estimate.
        drawn: estimate in row 0, resamples after it; none of them leave NaN for the ends.
        confidence: level of the interval, in (0, 1).
    """
    low = high = np.nan
    if len(drawn) > 1:
        low, high = confidence_interval(drawn[1:], confidence).T
    return {name: drawn[0], f"{name}_low": low, f"{name}_high": high}
