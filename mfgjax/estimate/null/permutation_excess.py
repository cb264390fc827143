"""Excess congestion over the permutation null: what experts' own logits do not explain."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfgjax.estimate.congestion.fit import Objective, fit_congestion
from mfgjax.estimate.inference.bootstrap import Estimator
from mfgjax.estimate.inference.corrected import (
    CorrectedFit,
    fit_corrected,
    influence_error,
    score_interval,
)
from mfgjax.estimate.inference.interval import t_quantile
from mfgjax.estimate.inference.quality_choice import estimate_quality_and_load
from mfgjax.estimate.inference.token_quality import Extended
from mfgjax.estimate.inference.weights import jackknife_groups, leave_out_weights, unit_weights
from mfgjax.estimate.null.independent import BinnedStatistics, independent_load, with_bins
from mfgjax.trace import TokenTrace, statistics_of


@dataclasses.dataclass(frozen=True)
class ExcessCongestion:
    """Signed congestion, its null and their difference; arrays `[layer]`, on the host.

    All are corrected for the noise of few texts (`fit_corrected`). NaN, with infinite bounds, where
    the load, or the null's, differs from uniform by no more than its noise.

    Attributes:
        congestion: signed kl congestion.
        null: the same, fitted to the load of the null: of independent experts with the same logits
            each (permutation), or of plain top-K of the same logits (counterfactual).
        excess: their difference.
        congestion_interval: `(lower, upper)`, Fieller.
        excess_interval: `(lower, upper)`, paired: what a text does to both cancels.
        mean_excess: average over the layers that have an excess.
        mean_interval: `(lower, upper)` of that average.
        level: of the intervals.
        layers: module path of each layer.
    """

    congestion: np.ndarray
    null: np.ndarray
    excess: np.ndarray
    congestion_interval: tuple[np.ndarray, np.ndarray]
    excess_interval: tuple[np.ndarray, np.ndarray]
    mean_excess: float
    mean_interval: tuple[float, float]
    level: float
    layers: tuple[str, ...]

    @property
    def excludes_zero(self) -> np.ndarray:
        """Whether the paired interval of each layer's excess does not hold 0."""
        lower, upper = self.excess_interval
        return (lower > 0) | (upper < 0)


def estimate_excess(
    trace: TokenTrace, *, level: float = 0.95, documents: Sequence[int] | None = None
) -> ExcessCongestion:
    """Excess congestion of every layer of a token trace, with paired intervals. No random numbers.

    **Rule.** An excess is claimed where its interval does not hold 0 (`excludes_zero`). Without balancing, with
    independent experts, that is a false alarm in 2 to 5% of layers of 1,600 tokens and in 6 to 10% of
    layers of 4,000 (normal, heterogeneous and skewed noise, top-4 of 32, 200 samples each, so +- 2%;
    `python -m benchmarks.excess_power --tokens 32` and `--tokens 80`).
    The size of an excess says little by itself: without balancing it is beyond 1 in up to three quarters
    of layers where the noise is skewed, with an interval that holds 0.

    What it detects and misses, measured (`python -m benchmarks.excess_power`, 2,000 tokens): a tenth of
    the selection bias that evens the load shows in most samples; noise correlated 0.5 between
    experts is an excess of -6.5. Where tokens have a common shift as large as the noise, and the noise a skewness of 2,
    it is off by 1.0 to 2.6. Balancing that acts through each expert's own logits, as an auxiliary loss on the mean logits does, is no
    excess. A bias that evens the load completely leaves a load unrelated to quality: the congestion is
    then -M, and the excess negative.

    Args:
        trace: with every token's raw logits and choices.
        level: of the intervals, in (0, 1).
        documents: document of each text, where documents were cut into texts: whole documents are
            then left out in turn.

    Raises:
        ValueError: fewer than three texts (or documents).
    """
    metadata = trace.metadata
    sums = statistics_of(trace).statistics
    binned = with_bins(sums, jnp.asarray(trace.logits), jnp.asarray(trace.text), metadata.top_k)
    group = jackknife_groups(metadata.text_count, documents=documents)
    own, null = corrected_pair(binned, jnp.asarray(leave_out_weights(group)), metadata.top_k)
    return excess_of_pair(own, null, level, tuple(metadata.layers))


def excess_of_pair(
    own: CorrectedFit, null: CorrectedFit, level: float, layers: tuple[str, ...]
) -> ExcessCongestion:
    """Estimates and intervals of a congestion, its null and their difference.

    Args:
        own: fit of the load.
        null: fit of the null's load, with the same texts left out.
        level: of the intervals, in (0, 1).
        layers: their names.
    """
    influence = own.influence - null.influence
    congestion, below = np.asarray(own.congestion), np.asarray(null.congestion)
    excess = congestion - below
    quantile = t_quantile(len(influence), level)
    known = np.isfinite(excess)
    error = np.where(known, np.asarray(influence_error(influence)), np.inf)
    centre = np.where(known, excess, 0)
    mean, mean_error = float("nan"), float("inf")
    if known.any():
        mean = float(excess[known].mean())
        mean_error = float(influence_error(influence[:, known].mean(-1)))
    lower, upper = score_interval(own, level)
    return ExcessCongestion(
        congestion=congestion,
        null=below,
        excess=excess,
        congestion_interval=(np.asarray(lower), np.asarray(upper)),
        excess_interval=(centre - quantile * error, centre + quantile * error),
        mean_excess=mean,
        mean_interval=(mean - quantile * mean_error, mean + quantile * mean_error),
        level=level,
        layers=layers,
    )


@partial(jax.jit, static_argnames="top_k")
def corrected_pair(
    statistics: BinnedStatistics, without: Float[Array, "group text"], top_k: int
) -> tuple[CorrectedFit, CorrectedFit]:
    """Corrected fits of the load and of its permutation null.

    Args:
        statistics: of one checkpoint, with the counts of its logits.
        without: weights with each group of texts left out, `leave_out_weights`.
        top_k: experts per token. Static.
    """
    return fit_pair(
        statistics, without, lambda weights, sums: independent_load(weights, sums, top_k)
    )


def fit_pair(
    statistics: Extended,
    without: Float[Array, "group text"],
    null_load: Callable[
        [Float[Array, "resample text"], Extended], Float[Array, "resample layer expert"]
    ],
) -> tuple[CorrectedFit, CorrectedFit]:
    """Corrected fits of the load and of a null's load, for any null that is a load of weighted texts."""
    texts = statistics.token_count.shape[0]
    without = without.astype(statistics.logit_sum.dtype)
    weights = jnp.concatenate([unit_weights(texts, without.dtype), without])
    quality, load = estimate_quality_and_load(statistics, weights)
    null = null_load(weights, statistics)
    both = jnp.stack([load, null], axis=1)
    qualities = jnp.stack([quality, quality], axis=1)
    start = fit_congestion(qualities[0], both[0], "kl").congestion
    fit = fit_corrected(start, qualities[0], both[0], qualities[1:], both[1:])

    def take(row):
        return CorrectedFit(
            congestion=fit.congestion[row],
            score=fit.score[:, row],
            slope=fit.slope[:, row],
            raw_slope=fit.raw_slope[row],
            identified=fit.identified[row],
        )

    return take(0), take(1)


@lru_cache
def permutation_excess_estimator(top_k: int, objective: Objective = "kl") -> Estimator:
    """For `bootstrap_texts` on `BinnedStatistics`: congestion, permutation null and their excess.

    Uncorrected: resampled loads hold their noise twice over, the null's hardly any, so percentile
    intervals of this excess are off by the difference. `estimate_excess` is not.
    """

    def estimate(statistics, weights):
        quality, load = estimate_quality_and_load(statistics, weights)
        null = independent_load(weights, statistics, top_k)
        fits = [
            fit_congestion(quality, values, objective, count_minima=False).congestion
            for values in (load, null)
        ]
        return {"congestion": fits[0], "null": fits[1], "excess": fits[0] - fits[1]}

    return estimate
