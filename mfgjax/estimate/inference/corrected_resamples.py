"""Resamples of the L1 congestion, moved and scaled to where the corrected estimate is.

The L1 fit has no smooth score to jackknife, but noise in the load attenuates it as it does the kl fit
(`corrected.py`). So the correction is borrowed: with r the share of the variance of the load that is
not noise,

    corrected_l1 = corrected_kl + (l1 - kl) / r,    resample -> corrected_l1 + (l1* - mean l1*) / r.  (1)

Measured coverage of a nominal 95% (`python -m benchmarks.studies.coverage_corrected`): 96 to 98% with enough
tokens, where resampled loads hold their noise twice and l1* spreads too far; 91 to 93% at the paper's
size and with very unlike texts, where r is itself uncertain and (1) takes it as known.
"""

import numpy as np

from mfgjax.estimate.inference.corrected import CorrectedFit
from mfgjax.estimate.inference.interval import t_over_normal

LEAST_SHARE = 0.05
"""A smaller share of signal says that the load is noise; the interval is then unbounded."""


def correct_l1(
    congestion: np.ndarray, signed: np.ndarray, corrected: CorrectedFit
) -> tuple[np.ndarray, np.ndarray]:
    """Corrected L1 congestion and the share r; both NaN where there is no telling.

    Not cut off at 0: an average over layers must not be of values that were.

    Args:
        congestion: L1 fit whose search range reaches below 0.
        signed: kl fit of the same quality and load.
        corrected: of the same; its slopes give r.
    """
    raw, slope = np.asarray(corrected.raw_slope), np.asarray(corrected.slope).mean(0)
    share = np.where(raw > 0, slope / np.where(raw > 0, raw, 1), np.nan)
    known = np.asarray(corrected.identified) & (share > LEAST_SHARE)
    share = np.where(known, np.minimum(share, 1), np.nan)
    return np.asarray(corrected.congestion) + (congestion - signed) / share, share


def correct_resamples(
    resampled: np.ndarray,
    congestion: np.ndarray,
    signed: np.ndarray,
    corrected: CorrectedFit,
    level: float = 0.95,
) -> np.ndarray:
    """Resamples (1) of the L1 congestion, not cut off at 0, for percentiles, differences and bands.

    Deviations are stretched from normal to t quantiles of the number of texts, for `level`.

    Args:
        resampled: L1 fits, leading axis `resample`, with a search range below 0.
        congestion: the same from all texts.
        signed: the kl fit from all texts.
        corrected: the corrected kl fit.
        level: of the interval that they are for.
    """
    centre, share = correct_l1(congestion, signed, corrected)
    stretch = t_over_normal(np.asarray(corrected.score).shape[0], level)
    wide = (stretch / share).astype(resampled.dtype)
    moved = (centre - wide * resampled.mean(0)).astype(resampled.dtype)
    return moved[None] + wide[None] * resampled
