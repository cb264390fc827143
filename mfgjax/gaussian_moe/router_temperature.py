"""Does a trace identify the temperature of a router? Four cases, of which two can say yes.

1. The choices are the top-K of the scores, with one bias for all tokens: scores divided by any temperature
   give the same choices, or move into the bias. The information on the temperature is zero, and a
   checkpoint trained with an annealed temperature looks like one whose weights grew.
2. The choices were drawn: each of the K in turn from softmax(logits / T) over those not yet chosen, in the
   order of the trace. One parameter, concave in 1/T; the information per draw is Var(logits) under the
   draw, over T^4.
3. Loads only, and qualities in units of the logits: (1/T, gamma/T) is identified, mostly badly. This is
   `fit_jointly`.
4. Loads only, and qualities up to a scale: T and gamma are not identified, since (quality, T, gamma) times s
   gives the same load: the flat direction of the linear gate once more.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from mfgjax.estimate.congestion.identification import fit_jointly
from mfgjax.price.bounds import reveal_from_bounds
from mfgjax.price.conflict import explain_conflict
from mfgjax.trace.choice_bound import SelectionRule, choice_bound_of, selection_rule
from mfgjax.trace.schema import StatisticsTrace, TokenTrace, TraceError

_NOISE = "noise at selection"
_MISFIT = 4.0
"""Standard errors by which the score may differ from its model before the draw is refused."""
_STEPS = 60


@dataclasses.dataclass(frozen=True)
class RouterTemperature:
    """What one layer says.

    Attributes:
        layer: name.
        regime: 1 to 4, as in the module's list; 0 where the trace does not name the rule of choice.
        identified: whether there is an estimate.
        temperature: NaN where not identified.
        standard_error: for independent tokens; texts that are alike make it too small.
        condition: of the information scaled to unit diagonal, in case 3; infinite where it is singular.
        reason: why, in words.
    """

    layer: str
    regime: int
    identified: bool
    temperature: float
    standard_error: float
    condition: float
    reason: str


def router_temperature(
    trace: TokenTrace | StatisticsTrace,
    *,
    quality_in_units: bool = True,
    rules: Sequence[SelectionRule | None] | None = None,
) -> list[RouterTemperature]:
    """Whether each layer of a trace identifies a temperature, and which. On the host.

    Args:
        trace: of tokens (cases 1 and 2), or statistics (cases 3 and 4, from loads and mean logits alone).
        quality_in_units: that the logits are those before the division by the temperature sought; False
            where their scale is not known, as after a temperature that training annealed.
        rules: how each layer ranks experts, where the trace of tokens does not say.
    """
    layers = range(len(trace.metadata.layers))
    if isinstance(trace, StatisticsTrace):
        return [_from_loads(trace, layer, quality_in_units) for layer in layers]
    return [_from_choices(trace, layer, rules[layer] if rules else None) for layer in layers]


def _none(layer: str, regime: int, reason: str, condition: float = np.inf) -> RouterTemperature:
    return RouterTemperature(layer, regime, False, np.nan, np.nan, condition, reason)


def _from_loads(trace: StatisticsTrace, layer: int, in_units: bool) -> RouterTemperature:
    name, sums = trace.metadata.layers[layer], trace.statistics
    if not in_units:
        return _none(
            name,
            4,
            "qualities are known up to a scale: they, T and gamma times s give the same load",
        )
    quality = np.asarray(sums.logit_sum, float)[:, layer].sum(0)
    quality = quality / np.asarray(sums.token_count, float).sum()
    count = np.asarray(sums.dispatch_count, float)[:, layer].sum(0)
    dtype = jnp.asarray(0.0).dtype
    joint = fit_jointly(
        jnp.asarray(quality, dtype), jnp.asarray(count / count.sum(), dtype), float(count.sum())
    )
    condition = float(joint.condition)
    if not bool(joint.identified):
        errors = np.asarray(joint.standard_error)
        reason = (
            "one load gives no pair of T > 0 and congestion with both standard errors below a quarter of it: "
            f"they are {errors[1]:.2g} and {errors[0]:.2g}, condition of the information {condition:.2g}"
        )
        return _none(name, 3, reason, condition)
    return RouterTemperature(
        name,
        3,
        True,
        float(joint.temperature),
        float(joint.standard_error[1]),
        condition,
        f"fitted with congestion {float(joint.congestion):.4g}; independent dispatches assumed",
    )


def _from_choices(trace: TokenTrace, layer: int, rule: SelectionRule | None) -> RouterTemperature:
    name = trace.metadata.layers[layer]
    if rule is None:
        try:
            rule = selection_rule(trace.metadata, layer, trace.selection_bias is not None)
        except TraceError as refusal:
            return _none(name, 0, str(refusal))
    bound = choice_bound_of(trace, layer, 1, rule)
    if not reveal_from_bounds(bound, [rule], [name]).conflict[0]:
        return _none(
            name, 1, "every choice is the top-K of the score plus one bias: no information on T"
        )
    why = explain_conflict(trace, layer, rule)
    if why.reason != _NOISE:
        return _none(
            name, 1, f"choices follow from the scores without a draw ({why.reason}): {why.detail}"
        )
    if trace.selection_bias is not None or rule.score != "logits":
        return _none(name, 2, "drawn, but from a score with a bias, or one that is not the logits")
    return _drawn(
        name, np.asarray(trace.logits[:, layer], float), trace.choices[:, layer].astype(int)
    )


def _drawn(
    name: str, logits: Float[np.ndarray, "token expert"], choices: Int[np.ndarray, "token top_k"]
) -> RouterTemperature:
    """Newton in the inverse temperature, on a concave likelihood."""
    logits = logits - logits.mean(-1, keepdims=True)
    unit = logits.std() or 1.0
    logits = logits / unit
    inverse = 0.0
    for _ in range(_STEPS):
        score, variance = _score_and_variance(logits, choices, inverse)
        if not variance.sum() > 0:
            return _none(name, 2, "all logits of a token are equal: nothing to weigh")
        move = score.sum() / variance.sum()
        reach = abs(move) * np.ptp(logits, axis=-1).max()
        inverse += move * np.log1p(reach) / reach if reach > 0 else 0
        if reach < 1e-10:
            break
    else:
        return _none(
            name, 2, "no finite temperature fits: choices are nearly the top-K of the logits"
        )
    score, variance = _score_and_variance(logits, choices, inverse)
    error = variance.sum() ** -0.5
    if inverse < 2 * error:
        return _none(
            name, 2, "choices do not follow the logits: 1/T is not above 0 by two standard errors"
        )
    misfit = _misfit(logits, choices.shape[1], score, variance)
    if misfit > _MISFIT:
        reason = (
            f"drawn, but not from softmax(logits / T) at one T: off by {misfit:.1f} standard errors "
            "(another noise, or choices not in the order of the draw)"
        )
        return _none(name, 2, reason)
    return RouterTemperature(
        name,
        2,
        True,
        float(unit / inverse),
        float(unit * error / inverse**2),
        1.0,
        f"choices drawn from softmax(logits / T): {_not_the_top(logits, choices):.1%} are not the top-K",
    )


def _misfit(logits, top_k: int, score, variance) -> float:
    """Standard errors by which the score goes with what it must not go with: the distance of the K-th logit
    to the next, the spread of the logits, or its own variance."""
    ranked = -np.sort(-logits, axis=-1)
    last = min(top_k, ranked.shape[1] - 1)
    gap = score**2 - variance
    found = [abs(gap.sum()) / np.sqrt((gap**2).sum())]
    for other in (ranked[:, last - 1] - ranked[:, last], logits.std(-1)):
        away = other - (other * variance).sum() / variance.sum()
        scale = np.sqrt((away**2 * variance).sum())
        found.append(abs((away * score).sum()) / scale if scale > 0 else 0.0)
    return float(max(found))


def _score_and_variance(logits, choices, inverse: float):
    """Per token, summed over its draws: derivative of the log probability in 1/T, and its variance."""
    left = inverse * logits
    rows = np.arange(len(logits))
    score, variance = np.zeros(len(logits)), np.zeros(len(logits))
    for chosen in choices.T:
        power = np.exp(left - left.max(-1, keepdims=True))
        share = power / power.sum(-1, keepdims=True)
        mean = (share * logits).sum(-1)
        score += logits[rows, chosen] - mean
        variance += (share * (logits - mean[:, None]) ** 2).sum(-1)
        left = left.copy()
        left[rows, chosen] = -np.inf
    return score, variance


def _not_the_top(logits, choices) -> float:
    """Share of tokens whose choices are not the top-K of the logits."""
    top = np.sort(np.argsort(-logits, axis=-1)[:, : choices.shape[1]], -1)
    return float((top != np.sort(choices, -1)).any(-1).mean())
