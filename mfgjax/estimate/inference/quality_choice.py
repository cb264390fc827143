"""One way in to every quality: `estimate_quality_and_load(statistics, weights, quality=...)`."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.estimate.inference.quality import (
    estimate_load,
    estimate_log_probability_quality,
    estimate_mean_quality,
    split_halves,
)
from mfgjax.estimate.inference.token_quality import (
    TokenStatistics,
    estimate_median_quality,
    estimate_trimmed_quality,
)
from mfgjax.trace.schema import TextStatistics

Quality = Literal["mean", "median", "trimmed", "split-half", "log-probability"]
QUALITIES: tuple[Quality, ...] = ("mean", "median", "trimmed", "split-half", "log-probability")
TOKEN_QUALITIES: tuple[Quality, ...] = ("median", "trimmed")
"""Those that per-text sums cannot give: they need a `TokenStatistics`."""


def estimate_quality_and_load(
    statistics: TextStatistics,
    weights: Float[Array, "resample text"],
    quality: Quality = "mean",
) -> tuple[Float[Array, "resample layer expert"], Float[Array, "resample layer expert"]]:
    """Quality and load of every layer under each weighting of the texts.

    Args:
        statistics: per-text sums of one checkpoint; for `"median"` and `"trimmed"` with its tokens
            (`TokenStatistics`).
        weights: one row per resample.
        quality: static. `"mean"` raw logit, `"median"`, `"trimmed"` (a tenth off either end),
            `"split-half"` (mean logit over the first half of the texts, load from the other half),
            `"log-probability"` (log of the mean softmax probability). The first four are locations
            of the logit, the last is not. All of arXiv 2604.04230, section 6.1, but the last.

    Raises:
        ValueError: an unknown quality, or one that needs tokens without them.
    """
    check_quality(quality)
    for_load = weights
    if quality in TOKEN_QUALITIES:
        if not isinstance(statistics, TokenStatistics):
            raise ValueError(
                f"quality {quality!r} needs every token's logits and per-text sums hold none: pass "
                "TokenStatistics (with_tokens), or choose mean, split-half or log-probability"
            )
        estimate = estimate_median_quality if quality == "median" else estimate_trimmed_quality
        found = estimate(weights, statistics.sorted_tokens)
    elif quality == "log-probability":
        found = estimate_log_probability_quality(
            weights, statistics.token_count, statistics.probability_sum
        )
    else:
        for_quality = weights
        if quality == "split-half":
            for_quality, for_load = split_halves(weights)
        found = estimate_mean_quality(for_quality, statistics.token_count, statistics.logit_sum)
    load = estimate_load(for_load, statistics.dispatch_count)
    return found, load.astype(jnp.result_type(found, load))


def check_quality(quality: str) -> None:
    """Raise `ValueError` unless `quality` is one of `QUALITIES`."""
    if quality not in QUALITIES:
        raise ValueError(f"quality {quality!r} is not one of {', '.join(QUALITIES)}")
