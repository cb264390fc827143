"""What is measured of a trained run: on held-out text, on the record of its training, and by intervention.

Lists are per layer. A number that does not exist for a rule (the congestion of a router whose choices no
score explains, say) is NaN, and null in the files.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from mfgjax.estimate import counterfactual_excess, dispersion_excess, permutation_excess
from mfgjax.lab.corpus import DOMAINS, HeldOut
from mfgjax.lab.model import Routed
from mfgjax.lab.rules import RULES
from mfgjax.lab.store import trace_of
from mfgjax.lab.train import Record, State, Trainer
from mfgjax.metrics.per_layer import measure_balance
from mfgjax.metrics.sampling_floor import max_violation_floor
from mfgjax.price import estimate_price_slope, fit_token_congestion
from mfgjax.trace import TokenTrace, TraceError

LAST = 50
"""Training steps at the end that the load in training is counted over."""
BALANCED = 0.1
"""MaxVio above its sampling floor that counts as balanced."""
MASKED_TEXTS = 8
"""Windows of each domain that experts are taken out on."""


BYTE_CLASSES = ("letter", "digit", "space", "line end", "punctuation", "other")


def measure_run(trainer: Trainer, state: State, past: Record, text: HeldOut) -> dict[str, Any]:
    """Every measure of one run, plain numbers and lists.

    Args:
        trainer: of its rule.
        state: after the last step, of this run alone.
        past: its record of every step.
        text: held out.
    """
    windows = jnp.asarray(text.windows)
    nll, routed = jax.device_get(trainer.losses(state.params, state.price, windows))
    found: dict[str, Any] = {
        "held_out_loss": float(nll.mean()),
        "held_out_loss_by_domain": {
            name: float(nll[text.domain == number].mean()) for number, name in enumerate(DOMAINS)
        },
        "loss_every_tenth_step": np.round(past.loss[9::10].astype(float), 4).tolist(),
        "dropped_share": float(past.dropped[-LAST:].sum() / past.counts[-LAST:].sum()),
    }
    if trainer.rule is RULES["expert-choice"]:  # the same weights, without a look ahead
        causal = RULES["expert-threshold"]
        other, _ = trainer.losses(state.params, state.price, windows, rule=causal)
        found["held_out_loss_causal"] = float(other.mean())
    found |= of_training(past, trainer) | of_routing(routed, text, trainer.shape.top_k)
    found |= of_masking(trainer, state, text)
    found |= of_price(trainer, state, past)
    if not trainer.rule.any_number:
        found |= of_congestion(trace_of(trainer, state, routed, text, "measured"), text)
    return found


def of_training(past: Record, trainer: Trainer) -> dict[str, Any]:
    """Balance while training: of the last steps together, of single batches, and how soon."""
    top_k, experts, tokens = trainer.shape.top_k, trainer.shape.experts, trainer.plan.tokens
    last = past.counts[-LAST:]
    together = np.asarray(measure_balance(jnp.asarray(last.sum(0), jnp.float32)).max_violation)
    counts = past.counts.astype(float)
    of_batch = experts * counts.max(-1) / counts.sum(-1) - 1
    floor = float(max_violation_floor(tokens, top_k, experts))
    level = of_batch.mean(-1) - floor
    balanced = np.flatnonzero(level <= BALANCED)
    return {
        "training_max_violation": together.astype(float).tolist(),
        "training_max_violation_floor": float(
            max_violation_floor(len(last) * tokens, top_k, experts)
        ),
        "batch_max_violation": of_batch[-LAST:].mean(0).tolist(),
        "batch_max_violation_floor": floor,
        "batch_max_violation_every_tenth_step": np.round(level[9::10], 4).tolist(),
        "steps_to_balance": int(balanced[0]) if len(balanced) else None,
    }


def of_routing(routed: Routed, text: HeldOut, top_k: int) -> dict[str, Any]:
    """Load, dispersion and specialisation on the held-out text."""
    length = text.windows.shape[1] - 1
    domain = np.repeat(text.domain, length)
    kind = byte_class(text.windows[:, :-1].ravel())
    experts = routed.logits.shape[-1]
    rows: dict[str, list[float]] = {}
    for logits, choices in zip(routed.logits, routed.choices, strict=True):
        hot = (choices[..., None] == np.arange(experts)).any(1)
        balance = measure_balance(jnp.asarray(hot.sum(0), jnp.float32))
        centred = logits - logits.mean(-1, keepdims=True)
        own = {
            "max_violation": float(balance.max_violation),
            "entropy": float(balance.entropy),
            "dead_experts": int(balance.dead_experts),
            "logit_dispersion": float(np.sqrt(centred.var(0).mean())),
            "logit_mean_spread": float(centred.mean(0).std()),
            "domain_information": mutual_information(domain, hot),
            "byte_class_information": mutual_information(kind, hot),
            "co_activation": co_activation(hot),
        }
        for name, value in own.items():
            rows.setdefault(name, []).append(value)
    floor = float(max_violation_floor(len(domain), top_k, experts))
    return {**rows, "max_violation_floor": floor}


def of_masking(trainer: Trainer, state: State, text: HeldOut) -> dict[str, Any]:
    """Loss added by taking out the output of one expert, the choices as they were: `[layer][expert]`."""
    first = np.concatenate(
        [np.flatnonzero(text.domain == d)[:MASKED_TEXTS] for d in range(len(DOMAINS))]
    )
    added = _masked(trainer, state, jnp.asarray(text.windows[first]))
    added = np.asarray(added, float)
    return {
        "masking": np.round(added, 5).tolist(),
        "masking_mean": added.mean(1).tolist(),
        "masking_largest": added.max(1).tolist(),
    }


def _masked(trainer: Trainer, state: State, windows: Array) -> Array:
    layers, experts = trainer.shape.layers, trainer.shape.experts
    single = 1 - jnp.eye(layers * experts, dtype=jnp.float32).reshape(-1, layers, experts)
    whole = jnp.ones((1, layers, experts), jnp.float32)
    loss = trainer.masked_losses(
        state.params, state.price, windows, jnp.concatenate([whole, single])
    )
    return (loss[1:] - loss[0]).reshape(layers, experts)


def of_price(trainer: Trainer, state: State, past: Record) -> dict[str, Any]:
    """The stored bias: its spread, and its slope on the load of the last training steps."""
    memory = trainer.memory(state.price)
    found: dict[str, Any] = {}
    if "alpha" in memory:
        found["alpha"] = np.asarray(memory["alpha"], float).tolist()
    if "bias" not in memory:
        return found | {"price_spread": [0.0] * trainer.shape.layers}
    bias = np.asarray(memory["bias"], float)
    load = past.counts[-LAST:].sum(0) / past.counts[-LAST:].sum((0, 2))[:, None]
    centred = load - load.mean(-1, keepdims=True)
    square = (centred**2).sum(-1)
    slope = -(bias * centred).sum(-1) / np.where(square > 0, square, np.nan)
    return found | {
        "price_spread": np.ptp(bias, axis=-1).tolist(),
        "price_in_force": slope.tolist(),
    }


def of_congestion(trace: TokenTrace, text: HeldOut) -> dict[str, Any]:
    """gamma_token, the revealed price's slope, the signed congestion and its excess over three nulls."""
    layers = len(trace.metadata.layers)
    found: dict[str, Any] = {}
    nothing = [float("nan")] * layers
    try:
        fits = [fit_token_congestion(trace, layer) for layer in range(layers)]
        found["congestion_of_tokens"] = [fit.congestion for fit in fits]
        found["price_slope"] = estimate_price_slope(
            trace, documents=text.document
        ).congestion.tolist()
    except TraceError:  # no score explains the choices
        found |= {
            "congestion_of_tokens": nothing,
            "price_slope": nothing,
        }
    for excess in (dispersion_excess, permutation_excess, counterfactual_excess):
        over = excess(trace, documents=text.document)
        found["signed_congestion"] = np.asarray(over.congestion, float).tolist()
        found[f"excess_over_{over.name}"] = np.asarray(over.excess, float).tolist()
    return found


def byte_class(values: Int[np.ndarray, " token"]) -> Int[np.ndarray, " token"]:
    """Number of each byte's class in `BYTE_CLASSES`."""
    table = np.full(256, BYTE_CLASSES.index("other"))
    for value in range(128):
        letter = chr(value)
        if letter.isalpha():
            table[value] = 0
        elif letter.isdigit():
            table[value] = 1
        elif letter in " \t":
            table[value] = 2
        elif letter in "\n\r":
            table[value] = 3
        elif letter.isprintable():
            table[value] = 4
    return table[values]


def mutual_information(
    group: Int[np.ndarray, " token"], chosen: Bool[np.ndarray, "token expert"]
) -> float:
    """Between the group of a token and the expert of one of its choices, in nats.

    The bias of few counts is taken off (Miller and Madow), as if choices were independent; those of one text are
    not, so a router that reads nothing of the token (`random`) shows what is left of it.
    """
    joint = np.stack([chosen[group == g].sum(0) for g in np.unique(group)]).astype(float)
    total = joint.sum()
    if not total:
        return float("nan")
    rows, columns = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    filled = joint > 0
    ratio = joint * total / np.where(rows * columns > 0, rows * columns, 1)
    found = (joint[filled] * np.log(ratio[filled])).sum() / total
    bias = filled.sum() - (rows > 0).sum() - (columns > 0).sum() + 1
    return float(found - bias / (2 * total))


def co_activation(chosen: Bool[np.ndarray, "token expert"]) -> float:
    """Root mean square correlation of two experts' being chosen, above that of K drawn at random.

    K of M at random correlate by -1/(M - 1). Experts never or always chosen have no correlation and are
    left out.
    """
    used = (chosen.mean(0) > 0) & (chosen.mean(0) < 1)
    count = int(used.sum())
    if count < 2:
        return float("nan")
    correlation = np.corrcoef(chosen[:, used].astype(float).T)
    off = correlation[~np.eye(count, dtype=bool)] + 1 / (chosen.shape[1] - 1)
    return float(np.sqrt((off**2).mean()))
