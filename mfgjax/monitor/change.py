"""Has the load become uneven? A change detector with a stated rate of false alarms, never a level.

A level cannot be an alarm: what is healthy differs between runs and layers by orders of magnitude. A
CUSUM (Page 1954, doi 10.1093/biomet/41.1-2.100) compares every layer with its own past,

    S <- max(0, S + min((y - mean) / deviation, most) - slack),        alarm when S > threshold,    (1)

with `y = log V` and `V = 2 (log M - entropy)` of the load, which is its squared coefficient of variation
where that is small, and is moved less by a single expert where it is not. Mean and deviation start as
median and median absolute deviation of the first sampled steps and follow at a slow rate, with values far
off clipped, so that a change is not learnt before it is seen. The deviation is never taken for less than
that of independent tokens, of which y has (derived; V0 the floor of V)

    deviation^2 = 2 / (M - 1) (V0 / V) (2 - V0 / V)        for V >= V0.                    (2)

The step is clipped as well, so that no single batch raises an alarm. Thresholds by budget were measured:
`python -m benchmarks.studies.monitor`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mfgjax.monitor.record import Record

LEARNING = 40
"""Sampled steps that a layer's first mean and deviation are of; no alarm before."""

RATE = 0.02  # at which mean and deviation follow
SLACK = 1.0  # deviations
MOST = 4.0  # of one step
LEAST_DEVIATION = 0.05  # of y: a twentieth of the square
_CLIP = 2.0
_ROBUST = 1.4826

THRESHOLDS: dict[float, float] = {1e-3: 3.0, 1e-4: 5.0}
"""Threshold by the share of layer-checks that may be false alarms."""


def threshold_of(budget: float) -> float:
    """Threshold of a budget of false alarms per layer-check, between those measured.

    Raises:
        ValueError: outside of what was measured.
    """
    rates = sorted(THRESHOLDS)
    if not rates[0] <= budget <= rates[-1]:
        raise ValueError(
            f"a budget of {budget:g} false alarms per layer-check; measured are {rates[0]:g} to {rates[-1]:g}"
        )
    logs = np.log(rates)
    return float(np.interp(np.log(budget), logs, [THRESHOLDS[r] for r in rates]))


def unevenness_signal(
    record: Record,
) -> tuple[Float[np.ndarray, " layer"], Float[np.ndarray, " layer"]]:
    """y of (1), and its deviation (2) by sampling alone. NaN without tokens."""
    return log_unevenness(record.entropy, record.unevenness_floor, record.experts)


def log_unevenness(
    entropy: Float[np.ndarray, "*batch"],
    floor: Float[np.ndarray, "*batch"] | float,
    experts: Float[np.ndarray, "*batch"] | int,
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """The same from the entropy over log M, and the floor of the squared coefficient of variation."""
    value = np.maximum(2 * np.log(experts) * (1 - entropy), 1e-3 * np.asarray(floor))
    share = np.minimum(floor / value, 1)
    least = np.sqrt(2 / np.maximum(np.asarray(experts) - 1, 1) * share * (2 - share))
    return np.log(value), least


@dataclass
class Cusum:
    """(1) for many layers at once. NaN leaves a layer as it is.

    Attributes:
        threshold: see `threshold_of`.
    """

    threshold: float
    learning: int = LEARNING
    slack: float = SLACK

    def __post_init__(self):
        self._first: list[np.ndarray] = []
        self._mean = self._deviation = self.sum = np.empty(0)

    @property
    def reference(self) -> Float[np.ndarray, " layer"]:
        """The mean that y is compared with."""
        return self._mean

    def update(
        self, y: Float[np.ndarray, " layer"], least: Float[np.ndarray, " layer"] | float = 0.0
    ) -> Bool[np.ndarray, " layer"]:
        """One sampled step; returns which layers alarm. An alarm starts its layer over.

        Args:
            y: the signal.
            least: deviation that it has by chance.
        """
        if len(self._first) < self.learning:
            self._first.append(np.asarray(y, float))
            if len(self._first) == self.learning:
                self._learn()
            return np.zeros(len(y), bool)
        known = np.isfinite(y)
        scale = np.maximum(self._deviation, least)
        distance = np.where(known, (y - self._mean) / np.where(known, scale, 1), 0)
        self.sum = np.maximum(self.sum + np.minimum(distance, MOST) - self.slack, 0)
        alarm = known & (self.sum > self.threshold)
        self.sum = np.where(alarm, 0, self.sum)
        near = np.clip(distance, -_CLIP, _CLIP)
        self._mean = self._mean + RATE * near * np.where(known, scale, 0)
        spread = self._deviation * (1 + RATE * (near**2 - _CLIPPED_SQUARE) / 2)
        self._deviation = np.where(known, np.maximum(spread, LEAST_DEVIATION), self._deviation)
        # After an alarm the new state is the reference.
        self._mean = np.where(alarm, y, self._mean)
        return alarm

    def _learn(self) -> None:
        stack = np.stack(self._first)
        late = stack[len(stack) // 2 :]  # the first steps of training are unlike the rest
        self._mean = _finite(np.nanmedian, late)
        spread = _ROBUST * _finite(np.nanmedian, np.abs(late - self._mean))
        self._deviation = np.maximum(spread, LEAST_DEVIATION)
        self.sum = np.zeros(stack.shape[1])


_CLIPPED_SQUARE = 0.9205
"""Mean of the square of a standard normal clipped at 2."""


def _finite(reduce, values: np.ndarray) -> np.ndarray:
    """By column, 0 where all are NaN."""
    empty = ~np.isfinite(values).any(0)
    return reduce(np.where(empty, 0, values), axis=0)
