"""Detectors of a change in the load, as functions of the signals of many layers at once."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from mfgjax.metrics.sampling_floor import load_noise, max_violation_floor
from mfgjax.monitor.change import LEARNING, Cusum, log_unevenness
from mfgjax.monitor.measure import dispersion_null, signed_congestion

Signals = dict[str, Float[np.ndarray, "sample run layer *what"]]


def signals_of(run: dict[str, np.ndarray], top_k: int, tokens: int) -> Signals:
    """What can be watched of a load, from the sums of a record. Every one rises in a collapse."""
    count = run["count"].astype(float).swapaxes(0, 1)  # sample, run, layer, expert
    experts = count.shape[-1]
    load = count / count.sum(-1, keepdims=True)
    relative = experts * load - 1
    safe = np.where(load > 0, load, 1)
    noise = float(load_noise(tokens, top_k, experts)) ** 2
    floor = float(max_violation_floor(tokens, top_k, experts))
    violation = relative.max(-1)
    lack = 1 + (load * np.log(safe)).sum(-1) / np.log(experts)
    mean = run["logit_sum"].swapaxes(0, 1) / tokens
    centred = mean - mean.mean(-1, keepdims=True)
    square = run["centred_square_sum"].swapaxes(0, 1) / tokens - (centred**2).sum(-1)
    spread = np.sqrt(np.maximum(square, 0) / (experts - 1))
    null = dispersion_null(1.0, top_k, experts) + experts  # per unit of spread
    flat = signed_congestion(mean.reshape(-1, experts), load.reshape(-1, experts))
    congestion = flat.reshape(lack.shape)
    excess = congestion - (null * spread - experts)
    return {
        "entropy with its noise": np.stack(log_unevenness(1 - lack, noise, experts), -1),
        "variation": np.log((relative**2).mean(-1)),
        "MaxVio above its floor": _log_above(violation, floor),
        "entropy": np.log(np.maximum(lack, 1e-6)),
        "congestion minus null": -np.arcsinh(excess / experts),
        "MaxVio": violation,
        "lack of entropy": lack,
    }


def _log_above(value: np.ndarray, floor: float) -> np.ndarray:
    return np.log(np.maximum(value - floor, 0.25 * floor))


def cusum(signal: np.ndarray, threshold: float) -> Bool[np.ndarray, "sample run layer"]:
    """Alarms of the monitor's detector; with a last axis of two, signal and its least deviation."""
    y, least = (signal[..., 0], signal[..., 1]) if signal.ndim == 4 else (signal, 0 * signal)
    found = np.zeros(y.shape, bool)
    detector = Cusum(threshold)
    for sample in range(len(y)):
        raised = detector.update(y[sample].ravel(), least[sample].ravel())
        found[sample] = raised.reshape(y.shape[1:])
    return found


def level(signal: np.ndarray, threshold: float) -> Bool[np.ndarray, "sample run layer"]:
    """Alarms of a bare threshold: where it is crossed upwards; none while the detector above learns."""
    above = signal > threshold
    crossed = above & ~np.concatenate([above[:1], above[:-1]])
    crossed[LEARNING] |= above[LEARNING]
    crossed[:LEARNING] = False
    return crossed


Rule = Callable[[np.ndarray, float], np.ndarray]
DETECTORS: dict[str, tuple[str, Rule]] = {
    "CUSUM of entropy, chance known (the monitor's)": ("entropy with its noise", cusum),
    "CUSUM of the coefficient of variation": ("variation", cusum),
    "CUSUM of MaxVio above its floor": ("MaxVio above its floor", cusum),
    "CUSUM of entropy": ("entropy", cusum),
    "CUSUM of congestion minus null": ("congestion minus null", cusum),
    "threshold on MaxVio": ("MaxVio", level),
    "threshold on entropy": ("lack of entropy", level),
}
"""By name: the signal, and the rule."""


def thresholds_of(rule: Rule, signals: list[np.ndarray]) -> np.ndarray:
    """Thresholds worth trying, rising."""
    if rule is cusum:
        return np.geomspace(3, 300, 28)
    values = np.concatenate([s[LEARNING:].ravel() for s in signals])
    return np.unique(np.quantile(values, 1 - np.geomspace(0.3, 1e-5, 40)))


def rate_of(rule: Rule, signals: list[np.ndarray], threshold: float) -> tuple[int, int]:
    """Alarms and layer-checks over several groups of runs."""
    alarms = sum(int(rule(s, threshold).sum()) for s in signals)
    checks = sum(s[LEARNING:, :, :].shape[0] * s.shape[1] * s.shape[2] for s in signals)
    return alarms, checks


def calibrated(rule: Rule, signals: list[np.ndarray], budget: float) -> float:
    """Lowest threshold from which on the rate is within the budget; the highest tried if none."""
    tried = thresholds_of(rule, signals)
    found = tried[-1]
    for threshold in tried[::-1]:
        alarms, checks = rate_of(rule, signals, threshold)
        if alarms > budget * checks:
            break
        found = threshold
    return float(found)
