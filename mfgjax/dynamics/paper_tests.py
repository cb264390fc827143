"""The paper's per-layer tests of surge and relaxation (arXiv 2604.04230, Section 3.3).

"Surge: early peak > 1.5 x start; relaxation: final < 0.6 x mid-peak." The paper does not say which
checkpoints are early or middle. Here the early peak is the largest value in the first half of the
checkpoints, and the mid-peak the largest between the first and the last quarter.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

SURGE_RATIO = 1.5
RELAXATION_RATIO = 0.6


@dataclasses.dataclass(frozen=True)
class LayerPattern:
    """Outcome of the two tests, per layer.

    Attributes:
        surge: early peak above 1.5 times the start.
        relaxation: final value below 0.6 times the mid-peak.
        from_zero: the start is 0, so that any congestion at all passes the surge test.
    """

    surge: Bool[np.ndarray, " layer"]
    relaxation: Bool[np.ndarray, " layer"]
    from_zero: Bool[np.ndarray, " layer"]


def layer_patterns(congestion: Float[np.ndarray, "checkpoint layer"]) -> LayerPattern:
    """Apply the paper's tests to each layer's trajectory."""
    congestion = np.asarray(congestion)
    n = len(congestion)
    start, final = congestion[0], congestion[-1]
    early = congestion[: (n + 1) // 2].max(0)
    middle = congestion[n // 4 : n - n // 4].max(0)
    return LayerPattern(
        surge=early > SURGE_RATIO * start,
        relaxation=final < RELAXATION_RATIO * middle,
        from_zero=start == 0,
    )
