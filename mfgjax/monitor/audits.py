"""Does the balancing that is configured act? Exact tests on the sums of a step.

None of these is a threshold on how even the load is. Each compares two things that must agree if
balancing works: the gradient with the coefficient, the framework's counter with the tokens, the experts
that ran with those the router ranked first. A test that cannot be made (no bias, no counter, no
gradient seen) is silent. What is found must hold in `PERSISTENCE` sampled steps in a row.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterator

import numpy as np

from mfgjax.monitor.faults import Alarm, Fault
from mfgjax.monitor.measure import fitted_aux
from mfgjax.monitor.record import Record
from mfgjax.monitor.sums import GradientSums, LayerSums, StepSums

PERSISTENCE = 3
"""Sampled steps in a row before a fault is named."""

_AT_ONCE = {Fault.LOGITS_NOT_FINITE, Fault.COUNTER_HAS_EVALUATION}  # the next step may not show it

_STILL = 5  # sampled steps without a change before something is called constant
_ACTING = 0.02  # of the coefficient: less than this share of it does not act
_ERRORS = 4.0  # standard errors
_WINDOW = 10  # sampled steps over which a loss is compared with the load
_LOW_BITS = 11  # mantissa of float16; bfloat16 has 8

_OF_THE_LOSS = {
    Fault.AUX_NOT_COMPUTED,
    Fault.AUX_POOLED,
    Fault.AUX_WITHOUT_GRADIENT,
    Fault.AUX_OF_RAW_LOGITS,
}

Found = tuple[Fault, str]
_equal = np.array_equal


class Audits:
    """The tests with the little history that they need. One per run."""

    def __init__(self) -> None:
        self._streak: dict[tuple[Fault, str], int] = defaultdict(int)
        self._first_bias: dict[str, np.ndarray] = {}
        self._bias: dict[str, np.ndarray] = {}
        self._state: dict[str, tuple[float, float]] = {}
        self._still: dict[tuple[str, str], int] = defaultdict(int)
        self._losses: deque[tuple[float, np.ndarray, np.ndarray]] = deque(maxlen=_WINDOW)

    def check(self, sums: StepSums, record: Record) -> list[Alarm]:
        """Faults that this step makes certain, each named at every step that it lasts."""
        found: dict[tuple[Fault, str], str] = {}
        for place, (name, layer) in enumerate(sums.layers.items()):
            uneven = _uneven(record, place)
            for fault, evidence in (
                *_gradient_faults(sums, layer, uneven),
                *self._bias_faults(name, layer, uneven),
                *_counter_faults(layer),
                *_expert_faults(layer),
                *self._router_faults(name, layer),
            ):
                found[fault, name] = evidence
        for name, evidence in self._hidden_collapse(sums, record):
            if not _OF_THE_LOSS & {fault for fault, _ in found}:  # else the cause is named already
                found[Fault.LOSS_HIDES_COLLAPSE, name] = evidence
        for key in set(self._streak) - set(found):
            del self._streak[key]
        for key in found:
            self._streak[key] += 1
        return [
            Alarm(sums.step, fault, name, evidence)
            for (fault, name), evidence in found.items()
            if self._streak[fault, name] >= PERSISTENCE or fault in _AT_ONCE
        ]

    def _bias_faults(self, name: str, layer: LayerSums, uneven: bool) -> Iterator[Found]:
        if layer.bias is None:
            return
        moved = not self._same("bias", name, _equal(self._bias.get(name, 0), layer.bias))
        self._bias[name] = layer.bias
        first = self._first_bias.setdefault(name, layer.bias)
        never = _equal(first, layer.bias)
        if never and uneven and self._still["bias", name] >= _STILL:
            yield (
                Fault.BIAS_NEVER_UPDATED,
                f"the same {layer.experts} values in {self._still['bias', name] + 1} sampled steps, "
                f"while the busiest expert gets {_busiest(layer)} times the mean",
            )
        if _rounded(layer.bias, layer.bias_bits):
            bits = min(layer.bias_bits, 8)
            unit = np.abs(layer.bias).max() * 2.0**-bits
            yield (
                Fault.BIAS_ROUNDED,
                f"its values have {bits} bits, so steps below {unit:.2g} are lost at its largest",
            )
        if layer.replayed is not None and moved and layer.replayed > 0.05 * layer.tokens:
            yield (
                Fault.ROUTES_REPLAYED,
                f"{layer.replayed} of {layer.tokens} tokens went to other experts than the router "
                "ranked first, while its bias moves",
            )
        if layer.weight_error is not None and layer.folded_error is not None and layer.tokens:
            plain, folded = (e / layer.tokens for e in (layer.weight_error, layer.folded_error))
            if plain > 1e-3 and folded < 0.1 * plain:
                yield (
                    Fault.BIAS_IN_WEIGHTS,
                    f"the weights are those of scores plus bias to {folded:.1g}, and {plain:.2g} off "
                    "those of the scores",
                )

    def _router_faults(self, name: str, layer: LayerSums) -> Iterator[Found]:
        if layer.router_state is None:
            return
        self._same("state", name, self._state.get(name) == layer.router_state)
        self._state[name] = layer.router_state
        if self._still["state", name] >= _STILL:
            if layer.router_trained is False:
                why = "its parameters ask for no gradient"
            elif layer.router_gradient is None:
                why = "it has no gradient"
            else:
                why = f"its gradient has norm {layer.router_gradient:.2g}"
            yield (
                Fault.ROUTER_NOT_TRAINED,
                f"its weights are the same in {self._still['state', name] + 1} sampled steps; {why}",
            )

    def _same(self, what: str, name: str, same: bool) -> bool:
        self._still[what, name] = self._still[what, name] + 1 if same else 0
        return same

    def _hidden_collapse(self, sums: StepSums, record: Record) -> Iterator[tuple[str, str]]:
        if sums.aux_loss is None:
            return
        above = record.max_violation - record.max_violation_floor
        self._losses.append((sums.aux_loss, above, record.max_violation))
        if len(self._losses) < _WINDOW:
            return
        losses = np.array([loss for loss, _, _ in self._losses])
        before, after = losses[:3].mean(), losses[-3:].mean()
        if after >= before - 0.002 * abs(before):
            return
        start, end = (np.array([a for _, a, _ in list(self._losses)[s]]).mean(0) for s in _ENDS)
        for place in np.flatnonzero((end > 1) & (end > 0.9 * start)):
            yield (
                record.layers[place],
                f"the loss went from {before:.4g} to {after:.4g} in {_WINDOW} sampled steps, while the "
                f"busiest expert got {1 + end[place]:.2g} times the mean after {1 + start[place]:.2g}",
            )


_ENDS = (slice(0, 3), slice(-3, None))


def _gradient_faults(sums: StepSums, layer: LayerSums, uneven: bool) -> Iterator[Found]:
    configured = sums.aux_loss_coef
    if layer.broken:
        yield (
            Fault.LOGITS_NOT_FINITE,
            f"{layer.broken} of {layer.tokens} tokens have NaN or infinity among their logits",
        )
    if not configured or layer.gradient is None:
        return
    # Pooled over L layers a loss acts on each with a share of 1/L.
    least = _ACTING * configured / len(sums.layers)
    slope, error = fitted_aux(layer.gradient)
    raw = _raw_fit(layer.gradient)
    if raw is not None and raw > least:
        yield (
            Fault.AUX_OF_RAW_LOGITS,
            f"the gradient at the logits does not depend on the probabilities (coefficient {raw:.3g})",
        )
    elif abs(slope) + _ERRORS * error < least:
        seen = f"{slope:.1g} +- {error:.1g} at its logits, {configured:.3g} configured"
        if sums.aux_loss is None:
            yield Fault.AUX_NOT_COMPUTED, f"coefficient {seen}, and the model returned no such loss"
        else:
            yield (
                Fault.AUX_WITHOUT_GRADIENT,
                f"coefficient {seen}, although a loss of {sums.aux_loss:.4g} was computed",
            )
    elif uneven and (pooled := _pooled_fit(layer.gradient)) is not None and pooled > least:
        yield (
            Fault.AUX_POOLED,
            f"its gradient follows the load of all layers together (coefficient {pooled:.3g}) and not "
            f"its own, whose busiest expert gets {_busiest(layer)} times the mean",
        )


def _raw_fit(g: GradientSums) -> float | None:
    """Coefficient of (2), where it leaves a tenth of what (1) leaves unexplained, or less."""
    if g.raw <= 0 or g.own <= 0 or g.square <= 0:
        return None
    left_raw = g.square - g.raw_gradient**2 / g.raw
    left = g.square - g.own_gradient**2 / g.own
    if left < 1e-6 * g.square or left_raw > 0.1 * left:
        return None
    return g.raw_gradient / g.raw * g.batches


def _pooled_fit(g: GradientSums) -> float | None:
    """Coefficient of the pooled load where it explains the gradient and the own load adds nothing."""
    determinant = g.own * g.pooled - g.both**2
    if determinant <= 0.01 * g.own * g.pooled or g.terms < 4:
        return None  # the two loads are alike: nothing to tell apart
    own = (g.pooled * g.own_gradient - g.both * g.pooled_gradient) / determinant
    pooled = (g.own * g.pooled_gradient - g.both * g.own_gradient) / determinant
    left = max(g.square - own * g.own_gradient - pooled * g.pooled_gradient, 0) / (g.terms - 3)
    error = math.sqrt(left * g.own / determinant)
    if pooled < _ERRORS * error or abs(own) > 0.1 * pooled:
        return None
    return pooled * g.batches


def _counter_faults(layer: LayerSums) -> Iterator[Found]:
    counter, count = layer.counter, layer.count
    if counter is None:
        return
    if layer.counter_before:
        yield (
            Fault.COUNTER_HAS_EVALUATION,
            f"it held {layer.counter_before:.0f} choices before the step's first forward",
        )
    if _equal(counter, count) or not count.any():
        return
    padding = np.zeros_like(count) if layer.padding is None else layer.padding
    last = count if layer.last_count is None else layer.last_count
    total = f"{counter.sum():.0f} choices, {count.sum()} were made"
    times = next(
        (n for n in range(2, 9) for c in (count, count + padding) if _equal(counter, n * c)), 1
    )
    if padding.any() and _equal(counter, count + padding):
        yield Fault.COUNTER_HAS_PADDING, f"{total}, and {padding.sum()} by padding"
    elif times > 1:
        yield Fault.COUNTER_MULTIPLE, f"{total}: {times} times each"
    elif layer.counter_bits <= _LOW_BITS:
        yield Fault.COUNTER_ROUNDED, f"{total}; its type has {layer.counter_bits} bits"
    elif _equal(counter, last):
        yield Fault.COUNTER_PARTIAL, f"{total}: it holds the last micro-batch only"
    elif (counter <= count).all() and counter.sum() < 0.95 * count.sum():
        yield Fault.COUNTER_PARTIAL, total
    else:
        yield Fault.COUNTER_DIFFERS, total


def _expert_faults(layer: LayerSums) -> Iterator[Found]:
    if layer.expert_norm is None:
        return
    served = layer.count > 0.01 * layer.count.mean()
    for expert in np.flatnonzero(served & (layer.expert_norm < 0.01))[:1]:
        yield (
            Fault.EXPERT_DEAD_BY_OUTPUT,
            f"expert {expert} got {layer.count[expert]} tokens, and its output is "
            f"{layer.expert_norm[expert]:.1g} of the median expert's",
        )


def _uneven(record: Record, place: int) -> bool:
    """Whether the load differs from uniform by more than tokens at random would, beyond doubt."""
    freedom = max(int(record.experts[place]) - 1, 1)
    ratio = record.unevenness[place] / record.unevenness_floor[place]
    return bool(ratio > 1 + 6 * math.sqrt(2 / freedom))


def _rounded(bias: np.ndarray, bits: int) -> bool:
    alive = bias[bias != 0]
    if alive.size < max(4, len(bias) // 2):
        return False
    if bits <= _LOW_BITS:
        return True
    mantissa, _ = np.frexp(alive)
    short = _equal(mantissa * 256, np.rint(mantissa * 256))
    steps = alive / np.abs(alive).min()  # multiples of one step are short on their own
    return bool(short and not _equal(steps, np.rint(steps)))


def _busiest(layer: LayerSums) -> str:
    return f"{layer.count.max() / max(layer.count.mean(), 1e-300):.2g}"
