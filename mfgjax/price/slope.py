"""Congestion as the slope of the price on the load, corrected for the noise of the load.

A price `p_i = -b_i` that is `gamma load_i + const` has slope gamma on the load. The price is a constant of
the router, known within its interval whatever the texts; the load f is sampled, and its noise v_i enters
the denominator only (errors in variables):

    psi(gamma) = sum_i f_i (gamma f_i - p_i),    E psi = psi at the true load + gamma sum_i v_i,        (1)

f and p centred over the experts in use. Jackknifed over texts (or documents) at fixed gamma, (1) has no
bias of first order, and its root and Fieller's interval follow as for the signed congestion
(`mfgjax.estimate.inference.corrected`). What the price may be off within its bounds is added to both ends.
Measured coverage: `python -m benchmarks.studies.price_coverage`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from mfgjax.estimate.inference.corrected import CorrectedFit, score_interval
from mfgjax.estimate.inference.weights import jackknife_groups
from mfgjax.price.bounds import RevealedPrice
from mfgjax.price.reveal import reveal_price
from mfgjax.trace.schema import StatisticsTrace, TokenTrace

_FEWEST_EXPERTS = 3
_CHUNK_VALUES = 4_000_000


@dataclasses.dataclass(frozen=True)
class PriceSlope:
    """Congestion of each layer, in score units per unit of load; NaN where there is none to tell.

    Attributes:
        congestion: corrected slope of the price on the load; NaN where the load differs from uniform
            by no more than its noise, or fewer than 3 experts have a two-sided interval.
        interval: `[layer, 2]` of the true slope; ends are infinite where noise outweighs the signal.
        uncorrected: least squares, pulled to 0 by the noise of the load.
        signal: share of the variance of the load that is not noise.
        explained: share of the price's variance over experts that a line in the load explains, both
            corrected for noise.
        price_error: most that the slope is off because the price is known within bounds only; part of
            `interval`.
        experts: how many experts the line is through.
        groups: how many texts, documents or groups of texts the noise is from.
    """

    congestion: Float[np.ndarray, " layer"]
    interval: Float[np.ndarray, "layer 2"]
    uncorrected: Float[np.ndarray, " layer"]
    signal: Float[np.ndarray, " layer"]
    explained: Float[np.ndarray, " layer"]
    price_error: Float[np.ndarray, " layer"]
    experts: Int[np.ndarray, " layer"]
    groups: int


def estimate_price_slope(
    trace: TokenTrace | StatisticsTrace,
    *,
    revealed: RevealedPrice | None = None,
    documents: Sequence[int] | None = None,
    level: float = 0.95,
) -> PriceSlope:
    """Congestion of each layer of a trace: the slope of its revealed price on its load. On the host.

    A layer with a conflict (see `RevealedPrice`) has no price, and NaN here: look at
    `explain_conflict` first.

    Args:
        trace: of tokens, or statistics with `choice_bound`.
        revealed: the price, where it is known already.
        documents: document of each text, where documents were split into texts.
        level: nominal coverage.

    Raises:
        TraceError: as `reveal_price`.
        ValueError: fewer than three texts.
    """
    revealed = reveal_price(trace) if revealed is None else revealed
    return slope_of_price(trace, revealed, documents=documents, level=level)


def slope_of_price(
    trace: TokenTrace | StatisticsTrace, revealed: RevealedPrice, **settings
) -> PriceSlope:
    """`fit_price_slope` of what a trace reveals; `settings` are its own."""
    return fit_price_slope(
        np.nan_to_num(revealed.price),
        np.nan_to_num(revealed.half_width),
        revealed.two_sided & ~revealed.conflict[:, None],
        np.asarray(count_choices(trace), float),
        **settings,
    )


def resample_price_slope(
    fit: PriceSlope,
    price: Float[np.ndarray, "layer expert"],
    used: Bool[np.ndarray, "layer expert"],
    dispatch_count: Float[np.ndarray, "text layer expert"],
    weights: Float[np.ndarray, "resample text"],
) -> Float[np.ndarray, "resample layer"]:
    """Slopes of resampled texts, moved and scaled to the corrected estimate.

    For differences between checkpoints and bands along a run, from the same weights at each; an interval
    of one layer is in `fit`. A resampled load holds its noise twice, so resamples spread a little too far.

    Args:
        fit: of the same price and counts.
        price: as in `fit_price_slope`.
        used: as in `fit_price_slope`.
        dispatch_count: as in `fit_price_slope`.
        weights: how often each text is drawn, from `mfgjax.estimate.inference.weights.resample_weights`.
    """
    texts, layers, experts = np.shape(dispatch_count)
    flat = np.asarray(dispatch_count, float).reshape(texts, -1)
    found = np.empty((len(weights), layers))
    rows = max(1, _CHUNK_VALUES // (layers * experts))
    for start in range(0, len(weights), rows):
        count = (np.asarray(weights[start : start + rows], float) @ flat).reshape(
            -1, layers, experts
        )
        cross, square = _moments(count, price, used, None)
        found[start : start + rows] = cross / np.where(square > 0, square, np.nan)
    return fit.congestion + (found - found.mean(0)) / fit.signal


def count_choices(trace: TokenTrace | StatisticsTrace):
    """Times each expert was chosen, `[text, layer, expert]`."""
    if isinstance(trace, StatisticsTrace):
        return trace.statistics.dispatch_count
    layers = trace.choices.shape[1]
    count = np.zeros((trace.metadata.text_count, layers, trace.metadata.experts))
    for layer in range(layers):
        np.add.at(count[:, layer], (trace.text[:, None], trace.choices[:, layer].astype(int)), 1)
    return count


def fit_price_slope(
    price: Float[np.ndarray, "layer expert"],
    half_width: Float[np.ndarray, "layer expert"],
    used: Bool[np.ndarray, "layer expert"],
    dispatch_count: Float[np.ndarray, "text layer expert"],
    *,
    metric: Float[np.ndarray, "layer expert expert"] | None = None,
    documents: Sequence[int] | None = None,
    level: float = 0.95,
) -> PriceSlope:
    """The slope of known prices on a load counted text by text. On the host; raises on bad shapes.

    Args:
        price: minus the selection bias, in score units; a constant per layer is immaterial.
        half_width: most that each price can be off.
        used: experts that the line is through.
        dispatch_count: times each expert was chosen in each text.
        metric: what the experts' squares are summed with; None for the identity.
        documents: document of each text, where documents were split into texts.
        level: nominal coverage.

    Raises:
        ValueError: shapes that do not fit, or fewer than three texts.
    """
    count = np.asarray(dispatch_count, float)
    if count.ndim != 3 or not count.shape[1:] == np.shape(price) == np.shape(half_width):
        raise ValueError(
            f"prices of shape {np.shape(price)} and counts of shape {count.shape}: [layer, expert] and "
            "[text, layer, expert] were expected"
        )
    group = jackknife_groups(len(count), documents=documents)
    groups = int(group.max()) + 1
    by_group = np.zeros((groups, *count.shape[1:]))
    np.add.at(by_group, group, count)
    total = by_group.sum(0)
    whole = _moments(total[None], price, used, metric)
    without = _moments(total - by_group, price, used, metric)
    cross, square = (groups * w - (groups - 1) * o for w, o in zip(whole, without, strict=True))
    mean_cross, mean_square = cross.mean(0), square.mean(0)
    experts = used.sum(-1)
    known = (mean_square > 0) & (experts >= _FEWEST_EXPERTS)
    safe = np.where(known, mean_square, np.nan)
    congestion = mean_cross / safe
    # The score of `CorrectedFit` is the derivative of a loss: it rises with gamma.
    fit = CorrectedFit(
        congestion=congestion,  # pyright: ignore[reportArgumentType]
        score=np.where(known, congestion * square - cross, 0),  # pyright: ignore[reportArgumentType]
        slope=square,  # pyright: ignore[reportArgumentType]
        raw_slope=whole[1][0],  # pyright: ignore[reportArgumentType]
        identified=known,  # pyright: ignore[reportArgumentType]
    )
    low, high = score_interval(fit, level)
    load = _measured(_centred(_load(total, used), used), metric)
    error = (np.abs(load) * np.where(used, half_width, 0)).sum(-1) / safe
    low, high = low - np.nan_to_num(error), high + np.nan_to_num(error)
    centred = _centred(np.where(used, price, 0), used)
    spread = (centred * _measured(centred, metric)).sum(-1)
    noise = cross.var(0, ddof=1) / groups
    explained = np.maximum(mean_cross**2 - noise, 0) / safe / np.where(spread > 0, spread, np.nan)
    return PriceSlope(
        congestion,
        np.stack([low, high], axis=-1),
        np.where(known, whole[0][0] / np.where(whole[1][0] > 0, whole[1][0], np.nan), np.nan),
        mean_square / np.where(whole[1][0] > 0, whole[1][0], np.nan),
        np.minimum(explained, 1),
        error,
        experts,
        groups,
    )


def _load(count, used):
    kept = np.where(used, count, 0)
    total = count.sum(-1, keepdims=True)
    return kept / np.where(total > 0, total, 1)


def _centred(values, used):
    mean = values.sum(-1, keepdims=True) / np.maximum(used.sum(-1, keepdims=True), 1)
    return np.where(used, values - mean, 0)


def _measured(values, metric):
    return values if metric is None else np.einsum("lij,...lj->...li", metric, values)


def _moments(count, price, used, metric):
    """`f' J p` and `f' J f`, centred, over experts in use: `[batch, layer]` each."""
    load = _centred(_load(count, used), used)
    measured = _measured(load, metric)
    return (measured * _centred(np.where(used, price, 0), used)).sum(-1), (load * measured).sum(-1)
