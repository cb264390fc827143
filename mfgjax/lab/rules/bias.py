"""Selection biases that follow the load: sign, proportional, SMEBU and the leaky price.

All but the leaky price are steps on the dual of the assignment problem (`certificate.py`): the load's excess
is its gradient, and any unevenness that lasts raises the price for ever. The leaky price has a fixed point,
`bias = -congestion (load - 1/M)`: congestion in the sense of this package, set by hand.
"""

import jax.numpy as jnp
from jaxtyping import Array

from mfgjax.lab.rule import Context, State, biased, load_of, with_average, zero_bias


def violation(counts: Array) -> Array:
    """`1 - M load`: how far each expert is below the mean, relative to it."""
    return 1 - len(counts) * load_of(counts)


def update_sign(state: State, counts: Array, logits: Array, context: Context) -> State:
    """`bias += step sign(violation)` (Wang et al. 2024, arXiv 2408.15664; DeepSeek-V3)."""
    return state | {"bias": state["bias"] + state["step"] * jnp.sign(violation(counts))}


def update_proportional(state: State, counts: Array, logits: Array, context: Context) -> State:
    """`bias += step violation` (the variant of arXiv 2408.15664, with the violation relative)."""
    return state | {"bias": state["bias"] + state["step"] * violation(counts)}


def update_smebu(state: State, counts: Array, logits: Array, context: Context) -> State:
    """Momentum on soft-clamped steps, re-centred: `step tanh(clamp violation)`."""
    wanted = state["step"] * jnp.tanh(state["clamp"] * violation(counts))
    wanted = wanted - wanted.mean()
    moved = state["momentum"] * state["velocity"] + (1 - state["momentum"]) * wanted
    return state | {"velocity": moved, "bias": state["bias"] + moved}


def update_leaky(state: State, counts: Array, logits: Array, context: Context) -> State:
    """`bias += rate (-congestion (average - 1/M) - bias)`, the average following the load at `load_rate`."""
    average = state["average"] + state["load_rate"] * (load_of(counts) - state["average"])
    rest = -state["congestion"] * (average - 1 / len(counts))
    return state | {
        "average": average,
        "bias": state["bias"] + state["rate"] * (rest - state["bias"]),
    }


def _with_velocity(experts: int, settings: State) -> State:
    return zero_bias(experts, settings) | {"velocity": jnp.zeros(experts, jnp.float32)}


def _with_bias_and_average(experts: int, settings: State) -> State:
    return zero_bias(experts, with_average(experts, settings))


SIGN = biased(
    update_sign,
    "loss-free bias, sign steps (arXiv 2408.15664; step 1e-3 of DeepSeek-V3, arXiv 2412.19437)",
    {"step": 1e-3},
)
PROPORTIONAL = biased(
    update_proportional,
    "loss-free bias, proportional steps (variant of arXiv 2408.15664; the step is ours)",
    {"step": 1e-2},
)
SMEBU = biased(
    update_smebu,
    "soft-clamped, re-centred bias with momentum (SMEBU, arXiv 2602.17004, with its values)",
    {"step": 5e-4, "clamp": 2.0, "momentum": 0.5},
    _with_velocity,
)
LEAKY = biased(
    update_leaky,
    "leaky price: congestion set by hand (this package; docs/price.md)",
    {"congestion": 20.0, "rate": 0.2, "load_rate": 0.05},
    _with_bias_and_average,
)
