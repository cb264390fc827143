"""The scope card: per layer in scope, marginal or out, with the reason and the numbers behind it.

Four questions, each answered from a percentile interval over resampled texts. "No" to one of the
first two puts the layer out of scope; anything else short of four times "yes" makes it marginal.

1. Is there congestion? L1 estimate above the paper's floor of 0.05.
2. Does the model beat the uniform load? Its equilibrium is nearer to the observed load (Table 6).
3. Can no expert take everything? Congestion above gamma_c (Theorem 5.2).
4. Is it more than dispersion? Signed estimate above the dispersion null.
"""

import warnings

import numpy as np
import pandas as pd

from mfgjax.estimate.congestion.diagnostics import IN_SCOPE_CONGESTION
from mfgjax.scope.estimates import ScopeEstimates

IN_SCOPE, MARGINAL, OUT = "in scope", "marginal", "out of scope"

_QUESTIONS = (
    ("congestion", "no congestion: the estimate is on its boundary", "congestion may be zero"),
    ("gain", "the uniform load is nearer to the data", "may not beat the uniform load"),
    ("safety_margin", "congestion below gamma_c", "congestion may be below gamma_c"),
    ("excess", "logit dispersion explains more than there is", "dispersion may explain it"),
)
_THRESHOLD = {
    "congestion": IN_SCOPE_CONGESTION,
    "gain": 0.0,
    "safety_margin": 1.0,
    "excess": 0.0,
}
_DECISIVE = ("congestion", "gain")


def scope_card(
    estimate: ScopeEstimates,
    resampled: ScopeEstimates,
    layers: tuple[str, ...],
    *,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """One row per layer: verdict, reason, and each number with its interval.

    Args:
        estimate: from all texts, batch axis `layer` only.
        resampled: from resampled texts, leading axis `resample`, at least one.
        layers: names of the layers.
        confidence: level of the percentile intervals, in (0, 1).

    Raises:
        ValueError: without resamples, or on a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, a number between 0 and 1 was expected")
    names = list(ScopeEstimates.__dataclass_fields__)
    point = {name: np.asarray(getattr(estimate, name), float) for name in names}
    drawn = {name: np.asarray(getattr(resampled, name), float) for name in names}
    if not len(drawn["congestion"]):
        raise ValueError("the scope card needs resamples for its intervals; draw at least one")
    for values in (point, drawn):
        values["gain"] = values["uniform_distance"] - values["equilibrium_distance"]
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    bounds = {name: _quantiles(values, ends) for name, values in drawn.items()}
    rows = []
    for index, layer in enumerate(layers):
        verdict, reason = _verdict({name: bounds[name][:, index] for name, _, _ in _QUESTIONS})
        row: dict[str, object] = {"layer": layer, "verdict": verdict, "reason": reason}
        for name in point:
            row[name] = point[name][index]
            row[f"{name}_low"], row[f"{name}_high"] = bounds[name][:, index]
        row["contraction_bounds_vacuous"] = bool(point["worst_case_rate"][index] >= 1)
        rows.append(row)
    return pd.DataFrame(rows)


def _verdict(interval: dict[str, np.ndarray]) -> tuple[str, str]:
    reasons, out = [], False
    for name, no, maybe in _QUESTIONS:
        low, high = interval[name]
        if np.isnan(low):
            reasons.append(f"{name} is not identified")
            out |= name in _DECISIVE
        elif high <= _THRESHOLD[name]:
            reasons.append(no)
            out |= name in _DECISIVE
        elif low <= _THRESHOLD[name]:
            reasons.append(maybe)
    if not reasons:
        return IN_SCOPE, "all four questions answered yes"
    return (OUT if out else MARGINAL), "; ".join(reasons)


def _quantiles(values: np.ndarray, ends: list[float]) -> np.ndarray:
    """Bounds by layer; NaN where every resample is NaN."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.nanquantile(values, ends, axis=0)
