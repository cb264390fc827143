"""The scope card: per layer in scope, marginal or out, with the reason and the numbers behind it.

Four questions, each answered from an interval over texts. "No" to one of the
first two puts the layer out of scope; anything else short of four times "yes" makes it marginal.

1. Is there congestion? L1 estimate above the paper's floor of 0.05.
2. Does the model beat the uniform load? Its equilibrium is nearer to the observed load (Table 6).
3. Can no expert take everything? Congestion above gamma_c (Theorem 5.2).
4. Is it more than dispersion? Signed estimate above the dispersion null.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from mfgjax.estimate.congestion.diagnostics import IN_SCOPE_CONGESTION
from mfgjax.estimate.inference.interval import confidence_interval
from mfgjax.scope.estimates import ScopeEstimates

IN_SCOPE, MARGINAL, OUT = "in scope", "marginal", "out of scope"

_QUESTIONS = (
    ("congestion", "no congestion: the estimate is on its boundary", "congestion may be zero"),
    ("gain", "the uniform load is nearer to the data", "may not beat the uniform load"),
    ("safety_margin", "congestion below gamma_c", "congestion may be below gamma_c"),
    (
        "dispersion_excess",
        "logit dispersion explains more than there is",
        "dispersion may explain it",
    ),
)
_THRESHOLD = {
    "congestion": IN_SCOPE_CONGESTION,
    "gain": 0.0,
    "safety_margin": 1.0,
    "dispersion_excess": 0.0,
}
_DECISIVE = ("congestion", "gain")


def scope_card(
    estimate: ScopeEstimates,
    resampled: ScopeEstimates,
    layers: tuple[str, ...],
    *,
    confidence: float = 0.95,
    kind: Literal["percentile", "jackknife"] = "percentile",
    known: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """One row per layer: verdict, reason, and each number with its interval.

    Args:
        estimate: from all texts, batch axis `layer` only.
        resampled: from resampled texts, leading axis `resample`, at least one; for the jackknife,
            with each group of texts left out.
        layers: names of the layers.
        confidence: level of the intervals, in (0, 1).
        kind: of the intervals (`confidence_interval`).
        known: intervals `[layer, 2]` by name that are given elsewhere: one number, one interval.

    Raises:
        ValueError: without resamples, or on a confidence outside (0, 1).
    """
    names = list(ScopeEstimates.__dataclass_fields__)
    point = {name: np.asarray(getattr(estimate, name), float) for name in names}
    drawn = {name: np.asarray(getattr(resampled, name), float) for name in names}
    if not len(drawn["congestion"]):
        raise ValueError("the scope card needs resamples for its intervals; draw at least one")
    for values in (point, drawn):
        values["gain"] = values["uniform_distance"] - values["equilibrium_distance"]
    known = known or {}
    bounds = {
        name: known[name]
        if name in known
        else confidence_interval(
            values, confidence, kind=kind, estimate=point[name], left_out=values
        )
        for name, values in drawn.items()
    }
    rows = []
    for index, layer in enumerate(layers):
        verdict, reason = _verdict({name: bounds[name][index] for name, _, _ in _QUESTIONS})
        row: dict[str, object] = {"layer": layer, "verdict": verdict, "reason": reason}
        for name in point:
            row[name] = point[name][index]
            row[f"{name}_low"], row[f"{name}_high"] = bounds[name][index]
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
