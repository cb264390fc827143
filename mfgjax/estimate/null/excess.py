"""A congestion, what a router without balancing would show of it, and the excess of the one over the other.

Three nulls, in order of what they keep of the token logits:

    dispersion       their means and one spread for all experts; closed form for Gaussian logits
    permutation      the distribution of each expert's own logits; experts are independent
    counterfactual   the joint distribution; only what acts on the choice alone is taken off

`dispersion_excess`, `permutation_excess` and `counterfactual_excess` take a trace and return an
`ExcessCongestion` each. What is the same in all three is here.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfgjax.estimate.congestion.fit import fit_congestion
from mfgjax.estimate.inference.corrected import (
    CorrectedFit,
    fit_corrected,
    influence_error,
    score_interval,
)
from mfgjax.estimate.inference.interval import Interval, t_quantile
from mfgjax.estimate.inference.quality import estimate_quality_and_load
from mfgjax.estimate.inference.weights import unit_weights
from mfgjax.trace.schema import TextStatistics

Null = Literal["dispersion", "permutation", "counterfactual"]
KEEPS: dict[Null, str] = {
    "dispersion": "mean logits, and one spread for all experts",
    "permutation": "the distribution of each expert's own logits",
    "counterfactual": "the joint distribution of the logits",
}
"""What each null keeps, in order: each keeps more than the one before."""

NullLoad = Callable[[Float[Array, "resample text"], Any], Float[Array, "resample layer expert"]]
"""The load of a null under each weighting of the texts, from sums that hold what it needs."""


@dataclasses.dataclass(frozen=True)
class ExcessCongestion:
    """Signed congestion, its null and their difference; arrays `[*batch, layer]`, on the host.

    All are corrected for the noise of few texts. NaN, with infinite bounds, where the load, or the
    null's, differs from uniform by no more than its noise.

    Attributes:
        name: of the null; a key of `KEEPS`.
        congestion: signed kl congestion.
        null: the same of a router without balancing.
        excess: their difference.
        congestion_interval: `(lower, upper)`, Fieller.
        null_interval: `(lower, upper)`; of the dispersion null by the jackknife, else Fieller.
        excess_interval: `(lower, upper)`, paired: what a text does to both cancels.
        mean_excess: average over the layers that have an excess, `[*batch]`.
        mean_interval: `(lower, upper)` of that average.
        level: of the intervals.
        layers: module path of each layer.
    """

    name: Null
    congestion: np.ndarray
    null: np.ndarray
    excess: np.ndarray
    congestion_interval: Interval
    null_interval: Interval
    excess_interval: Interval
    mean_excess: np.ndarray
    mean_interval: Interval
    level: float
    layers: tuple[str, ...]

    @property
    def excludes_zero(self) -> np.ndarray:
        """Whether the paired interval of each layer's excess does not hold 0."""
        lower, upper = self.excess_interval
        return (lower > 0) | (upper < 0)


def excess_over(
    name: Null,
    own: CorrectedFit,
    null: np.ndarray,
    influence: np.ndarray,
    null_interval: Interval,
    level: float,
    layers: tuple[str, ...],
) -> ExcessCongestion:
    """Estimates and intervals of a congestion, its null and their difference. Runs on the host.

    Args:
        name: of the null.
        own: fit of the load, `[*batch, layer]`.
        null: its corrected null.
        influence: what each text does to the null, times the number of texts, `[text, *batch, layer]`.
        null_interval: of the null.
        level: of the intervals, in (0, 1).
        layers: their names.
    """
    congestion, null = np.asarray(own.congestion, float), np.asarray(null, float)
    pull = np.asarray(own.influence, float) - np.asarray(influence, float)
    excess = congestion - null
    known = np.isfinite(excess)
    reach = t_quantile(len(pull), level)
    count = known.sum(-1)
    share = known / np.where(count > 0, count, 1)[..., None]
    average, pulled = ((share * np.where(known, leaf, 0)).sum(-1) for leaf in (excess, pull))
    return ExcessCongestion(
        name=name,
        congestion=congestion,
        null=null,
        excess=excess,
        congestion_interval=score_interval(own, level),
        null_interval=null_interval,
        excess_interval=_around(np.where(known, excess, 0), pull, known, reach),
        mean_excess=np.where(count > 0, average, np.nan),
        mean_interval=_around(average, pulled, count > 0, reach),
        level=level,
        layers=layers,
    )


def excess_of_pair(
    name: Null, own: CorrectedFit, null: CorrectedFit, level: float, layers: tuple[str, ...]
) -> ExcessCongestion:
    """`excess_over` a null that was fitted to a load, with the same texts left out.

    Args:
        name: of the null.
        own: fit of the load.
        null: fit of the null's load.
        level: of the intervals, in (0, 1).
        layers: their names.
    """
    ends = score_interval(null, level)
    influence = np.asarray(null.influence)
    return excess_over(name, own, np.asarray(null.congestion), influence, ends, level, layers)


def excess_of_jackknife(
    name: Null,
    own: CorrectedFit,
    null: np.ndarray,
    left_out: np.ndarray,
    level: float,
    layers: tuple[str, ...],
) -> ExcessCongestion:
    """`excess_over` a null that is a smooth function of the sums, corrected by the jackknife.

    Args:
        name: of the null.
        own: fit of the load.
        null: of all texts, `[*batch, layer]`.
        left_out: of all texts but one group each, `[group, *batch, layer]`.
        level: of the intervals, in (0, 1).
        layers: their names.
    """
    groups = len(left_out)
    pseudo = groups * np.asarray(null, float)[None] - (groups - 1) * np.asarray(left_out, float)
    centre = pseudo.mean(0)
    influence = pseudo - centre[None]
    ends = _around(centre, influence, np.isfinite(centre), t_quantile(groups, level))
    return excess_over(name, own, centre, influence, ends, level, layers)


def _around(centre: np.ndarray, influence: np.ndarray, known: np.ndarray, reach: float) -> Interval:
    error = np.where(known, influence_error(influence), np.inf)
    return centre - reach * error, centre + reach * error


def fit_loads(
    statistics: TextStatistics, without: Float[Array, "group text"], *null_loads: NullLoad
) -> tuple[CorrectedFit, ...]:
    """Corrected fits of the load of one checkpoint and of the loads of its nulls, in this order.

    Args:
        statistics: per-text sums.
        without: weights with each group of texts left out, `leave_out_weights`.
        null_loads: each a load of weighted texts.
    """
    without = without.astype(statistics.logit_sum.dtype)
    weights = jnp.concatenate([unit_weights(without.shape[1], without.dtype), without])
    quality, load = estimate_quality_and_load(statistics, weights)
    loads = jnp.stack([load, *(null(weights, statistics) for null in null_loads)], axis=1)
    qualities = jnp.stack([quality] * loads.shape[1], axis=1)
    start = fit_congestion(qualities[0], loads[0], "kl").congestion
    fit = fit_corrected(start, qualities[0], loads[0], qualities[1:], loads[1:])

    def take(row):
        return CorrectedFit(
            congestion=fit.congestion[row],
            score=fit.score[:, row],
            slope=fit.slope[:, row],
            raw_slope=fit.raw_slope[row],
            identified=fit.identified[row],
        )

    return tuple(take(row) for row in range(loads.shape[1]))
