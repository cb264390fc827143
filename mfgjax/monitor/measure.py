"""From the sums of a step to its record. NumPy on the host; definitions are those of `mfgjax.metrics`.

The signed congestion is the estimate of `mfgjax.estimate` without JAX: definition and existence are in
`mfgjax.estimate.congestion.kl`, and tests hold the two together. The null beside it is the closed form of
`mfgjax.estimate.null.dispersion`, `M (sigma / h - 1)`.
"""

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from mfgjax.metrics.sampling_floor import (
    load_noise,
    max_absolute_violation_floor,
    max_violation_floor,
)
from mfgjax.monitor.record import Record
from mfgjax.monitor.sums import GradientSums, LayerSums, StepSums

_SIGNAL = 0.5
"""Least share of the load's variance that is not noise, for a slope on it."""
_DOUBLINGS, _HALVINGS = 40, 60


def measure(sums: StepSums, *, counts: bool = True) -> Record:
    """The record of a step.

    Args:
        sums: from a front, checked by `step_sums`.
        counts: keep the tokens of every expert.
    """
    rows = [_measure_layer(layer) for layer in sums.layers.values()]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Record(
        step=sums.step,
        layers=tuple(sums.layers),
        count=tuple(layer.count for layer in sums.layers.values()) if counts else None,
        **columns,
    )


def signed_congestion(
    quality: Float[np.ndarray, "layer expert"], load: Float[np.ndarray, "layer expert"]
) -> Float[np.ndarray, " layer"]:
    """Root in gamma of `sum f^2 = sum_i f_i softmax(quality - gamma f)_i`, temperature 1.

    NaN where the load is uniform or not finite, -inf where all experts that have a load share it
    evenly. Accurate to 1e-10 relative.
    """
    spread = np.ptp(load, axis=-1)
    known = np.isfinite(load).all(-1) & np.isfinite(quality).all(-1) & (spread > 1e-12)
    scale = np.where(known, spread, 1)[:, None]
    direction = np.where(known[:, None], load, 0) / scale
    quality = np.where(known[:, None], quality - quality.max(-1, keepdims=True), 0)
    target = (np.where(known[:, None], load, 0) * direction).sum(-1)
    unbounded = known & (target >= direction.max(-1) * (1 - 1e-12))

    def surplus(theta):  # falls in theta
        power = quality - theta[:, None] * direction
        weight = np.exp(power - power.max(-1, keepdims=True))
        return (weight * direction).sum(-1) / weight.sum(-1) - target

    size = np.ones(len(load))
    for _ in range(_DOUBLINGS):
        short = known & ~unbounded & ((surplus(-size) < 0) | (surplus(size) > 0))
        if not short.any():
            break
        size = np.where(short, 2 * size, size)
    low, high = -size, size
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        right = surplus(middle) > 0
        low, high = np.where(right, middle, low), np.where(right, high, middle)
    found = np.where(known, (low + high) / 2 / scale[:, 0], np.nan)
    return np.where(unbounded, -np.inf, found)


def dispersion_null(dispersion: float, top_k: int, experts: int) -> float:
    """Congestion that a router without balancing shows, of logits with this spread over tokens.

    NaN where every expert is chosen.
    """
    if not 0 < top_k < experts:
        return float("nan")
    share = top_k / experts
    normal = NormalDist()
    hazard = normal.pdf(normal.inv_cdf(1 - share)) / share
    return experts * (dispersion / hazard - 1)


def _measure_layer(sums: LayerSums) -> dict[str, float | int]:
    experts, tokens, top_k = sums.experts, sums.tokens, sums.top_k
    load = sums.count / sums.count.sum() if tokens else np.full(experts, math.nan)
    relative = experts * load - 1
    alive = load[load > 0]
    usable = tokens - sums.broken
    dispersion = _dispersion(sums, usable)
    return {
        "tokens": tokens,
        "dispatches": int(sums.count.sum()),
        "experts": experts,
        "top_k": top_k,
        "max_violation": relative.max(),
        "max_violation_floor": float(max_violation_floor(tokens, top_k, experts)),
        "max_absolute_violation": np.abs(relative).max(),
        "max_absolute_violation_floor": float(max_absolute_violation_floor(tokens, top_k, experts)),
        "unevenness": (relative**2).mean(),
        "unevenness_floor": float(load_noise(tokens, top_k, experts)) ** 2,
        "entropy": -(alive * np.log(alive)).sum() / math.log(experts) if tokens else math.nan,
        "dead_share": (load == 0).mean() if tokens else math.nan,
        "max_share": load.max(),
        "busiest": int(sums.count.argmax()),
        "congestion": _congestion(sums, load, usable),
        "congestion_null": dispersion_null(dispersion, top_k, experts),
        "price_slope": price_slope(sums.bias, sums.count, top_k),
        "price_spread": math.nan if sums.bias is None else float(np.ptp(sums.bias)),
        "logit_dispersion": dispersion,
        "z": math.nan
        if sums.lse_square_sum is None or not usable
        else sums.lse_square_sum / usable,
        "router_gradient": math.nan if sums.router_gradient is None else sums.router_gradient,
        "aux_gradient": fitted_aux(sums.gradient)[0],
        "broken_share": sums.broken / tokens if tokens else 0.0,
    }


def _dispersion(sums: LayerSums, tokens: int) -> float:
    """As `mfgjax.estimate.estimate_dispersion` of all tokens."""
    if sums.logit_sum is None or sums.centred_square_sum is None or tokens < 2:
        return math.nan
    mean = sums.logit_sum / tokens
    mean = mean - mean.mean()
    square = sums.centred_square_sum / tokens - (mean**2).sum()
    return math.sqrt(max(square, 0) / (sums.experts - 1))


def _congestion(sums: LayerSums, load: np.ndarray, tokens: int) -> float:
    if sums.logit_sum is None or not tokens:
        return math.nan
    return float(signed_congestion((sums.logit_sum / tokens)[None], load[None])[0])


def price_slope(
    bias: Float[np.ndarray, " expert"] | None, count: Float[np.ndarray, " expert"], top_k: int
) -> float:
    """Congestion that a selection bias imposes: minus its slope on the load, errors in variables.

    The noise of the load, as of independent tokens, is taken off the denominator. NaN without a bias,
    where the bias is constant, or where less than half of the load's variance is signal.
    """
    if bias is None or np.ptp(bias) == 0 or not count.sum():
        return math.nan
    experts = len(count)
    load = count / count.sum() - 1 / experts
    noise = (load_noise(count.sum() / top_k, top_k, experts) / experts) ** 2
    signal = (load**2).mean() - noise
    if signal < _SIGNAL * (load**2).mean():
        return math.nan
    return -float((bias * load).mean() / signal)


def fitted_aux(sums: GradientSums | None) -> tuple[float, float]:
    """Coefficient that the gradients show, with its standard error; NaN and infinity where unseen."""
    if sums is None or sums.own <= 0 or sums.terms < 3:
        return math.nan, math.inf
    slope = sums.own_gradient / sums.own
    left = max(sums.square - slope * sums.own_gradient, 0) / (sums.terms - 2)
    return slope * sums.batches, math.sqrt(left / sums.own) * sums.batches
