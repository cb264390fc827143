"""What a training loop hands over of one sampled step: sums over its tokens, and the router's state.

This is the seam between frameworks. A front (torch: `mfgjax_extract.watch`, JAX:
`mfgjax.monitor.jax_front`) adds up on its device and copies once; all that follows is NumPy on the
host, and the same for every front. Nothing here imports torch or JAX: a training process of either
kind keeps its device to itself. A front hands over plain mappings, so it need not import mfgjax.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from jaxtyping import Float, Int


class MonitorError(ValueError):
    """Sums or records that cannot be right; says what was wrong, where, and what to do."""


@dataclass(frozen=True)
class GradientSums:
    """Least squares of the loss's gradient at the logits of experts that were *not* chosen.

    At such a logit the task's loss has a gradient in proportion to `w_tj`, the derivative of the
    router's score (softmax: `p_tj`; sigmoid: `p_tj (1 - p_tj) / sum p_t`), with one factor per token,
    or none; a z-loss likewise. An auxiliary loss `alpha M sum_j f_j P_j` adds
    `alpha (M/T) w_tj (f_j + const_t)`. What differs between unchosen experts of one token is therefore
    the balancing alone (derived):

        g_tj = w_tj (c_t + a x_j),  x_j = (M/T) f_j,   a = alpha;                      (1)
        g_tj = w_tj c_t + a x_j     where P is taken of raw logits instead.            (2)

    With `x~` what is left of x after the fit of c_t: sums over tokens and unchosen experts.

    Attributes:
        terms: how many gradients.
        square: sum of what is left of `g^2` after the fit of `c_t`.
        own, pooled, both: `x~ x~` of (1) with the layer's own load, the load pooled over layers, and
            their product.
        own_gradient, pooled_gradient: `x~ g` of (1).
        raw, raw_gradient: `x~ x~` and `x~ g` of (2).
        batches: micro-batches that these are of.
    """

    terms: float
    square: float
    own: float
    pooled: float
    both: float
    own_gradient: float
    pooled_gradient: float
    raw: float
    raw_gradient: float
    batches: int = 1


@dataclass(frozen=True)
class LayerSums:
    """One router, one sampled step, padding excluded. None where the front cannot tell.

    Attributes:
        tokens: tokens routed.
        top_k: experts per token.
        count: `[expert]` tokens that chose each expert.
        logit_sum: `[expert]` sum of the raw logits.
        centred_square_sum: sum over tokens and experts of squared logits, each token's mean taken off.
        probability_sum: `[expert]` sum of the softmax of the logits.
        lse_square_sum: sum of squared log-sum-exps (what a z-loss is the mean of).
        broken: tokens with a logit that is not finite; in `count`, in no other sum.
        like_probabilities: tokens whose logits lie in [0, 1] and add up to 1. All of them: refused.
        padding: `[expert]` choices of padding rows.
        last_count: `[expert]` `count` of the last micro-batch alone.
        bias: `[expert]` selection bias.
        bias_bits: mantissa bits of its type: 24 in float32, 8 in bfloat16.
        replayed: tokens whose experts were not those that the router ranked first.
        weight_error, folded_error: sums over tokens of the distance of the combine weights from the
            scores, and from the scores with the bias added.
        expert_norm: `[expert]` size of each expert's output or weights, relative to the median.
        router_state: two numbers that change when the router's parameters do.
        router_trained: whether the router's parameters ask for a gradient.
        router_gradient: norm of their gradient.
        gradient: see `GradientSums`.
        counter: `[expert]` what the framework's own counter says of this step.
        counter_before: total of that counter that was there before the step's first forward.
        counter_bits: mantissa bits of the counter's type; 64 for integers.
    """

    tokens: int
    top_k: int
    count: Int[np.ndarray, " expert"]
    logit_sum: Float[np.ndarray, " expert"] | None = None
    centred_square_sum: float | None = None
    probability_sum: Float[np.ndarray, " expert"] | None = None
    lse_square_sum: float | None = None
    broken: int = 0
    like_probabilities: int = 0
    padding: Int[np.ndarray, " expert"] | None = None
    last_count: Int[np.ndarray, " expert"] | None = None
    bias: Float[np.ndarray, " expert"] | None = None
    bias_bits: int = 24
    replayed: int | None = None
    weight_error: float | None = None
    folded_error: float | None = None
    expert_norm: Float[np.ndarray, " expert"] | None = None
    router_state: tuple[float, float] | None = None
    router_trained: bool | None = None
    router_gradient: float | None = None
    gradient: GradientSums | None = None
    counter: Float[np.ndarray, " expert"] | None = None
    counter_before: float | None = None
    counter_bits: int = 64

    @property
    def experts(self) -> int:
        """M."""
        return len(self.count)


@dataclass(frozen=True)
class StepSums:
    """One sampled step.

    Attributes:
        step: optimiser steps done before it.
        layers: by module path, in model order.
        aux_loss_coef: of the auxiliary loss as configured; None if none is stated.
        aux_loss: the balancing loss that the run itself computed, averaged over micro-batches.
        micro_batches: forwards that were added up.
    """

    step: int
    layers: dict[str, LayerSums] = field(default_factory=dict)
    aux_loss_coef: float | None = None
    aux_loss: float | None = None
    micro_batches: int = 1


def step_sums(step: int, layers: Mapping[str, Mapping[str, Any]], **run: Any) -> StepSums:
    """Check what a front handed over: names, shapes, signs.

    Args:
        step: optimiser steps done before this one.
        layers: by layer, the fields of `LayerSums`; arrays of any kind that NumPy can read.
        run: the other fields of `StepSums`.

    Raises:
        MonitorError: nothing handed over, unknown fields, or numbers that cannot be counts.
    """
    if not layers:
        raise MonitorError(
            f"step {step}: no layer was handed over. Does the model have routers, and did a forward run?"
        )
    return StepSums(int(step), {n: _layer(step, n, v) for n, v in layers.items()}, **run)


_ARRAYS = ("logit_sum", "probability_sum", "bias", "expert_norm", "counter")
_COUNTS = ("count", "padding", "last_count")
_KNOWN = {f.name for f in fields(LayerSums)}


def _layer(step: int, name: str, given: Mapping[str, Any]) -> LayerSums:
    where = f"step {step}, {name}"
    values = {key: value for key, value in given.items() if value is not None}
    if unknown := values.keys() - _KNOWN:
        raise MonitorError(
            f"{where}: unknown sums {sorted(unknown)}; known are {sorted(_KNOWN)}. The front and "
            "mfgjax are of different versions"
        )
    if missing := {"tokens", "top_k", "count"} - values.keys():
        raise MonitorError(f"{where}: {sorted(missing)} missing")
    for key in _ARRAYS:
        if key in values:
            values[key] = np.asarray(values[key], float)
    for key in _COUNTS:
        if key in values:
            values[key] = _whole(where, key, values[key])
    if isinstance(values.get("gradient"), Mapping):
        values["gradient"] = GradientSums(**values["gradient"])
    sums = LayerSums(**values)
    for key in (*_ARRAYS, *_COUNTS):
        value = getattr(sums, key)
        if value is not None and value.shape != sums.count.shape:
            raise MonitorError(
                f"{where}: {key} has shape {value.shape}, count has {sums.count.shape}; both are [expert]"
            )
    if sums.tokens and sums.like_probabilities == sums.tokens:
        raise MonitorError(
            f"{where}: the logits of every token lie in [0, 1] and add up to 1: these are probabilities. "
            "Hand over the router's logits, from before the softmax"
        )
    if sums.count.sum() != sums.tokens * sums.top_k:
        raise MonitorError(
            f"{where}: {sums.count.sum()} choices of {sums.tokens} tokens with top_k={sums.top_k}: "
            f"{sums.tokens * sums.top_k} were expected"
        )
    return sums


def _whole(where: str, key: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if not np.isfinite(array).all() or (array < 0).any() or (array != np.rint(array)).any():
        raise MonitorError(f"{where}: {key} holds {array.tolist()}, which are no counts")
    return array.astype(np.int64)
