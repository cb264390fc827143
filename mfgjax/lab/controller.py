"""A controller that holds a setpoint of balance: pure functions that any training loop can call.

The load that a selection bias b gives is the gradient of a convex function, the mean top-K sum (the dual of the
assignment problem; `certificate.py`). Its Hessian H has the density of tokens on the edge of expert j on the
diagonal, `H_jj = density of margin_j at 0 / K`, no positive entry off it, and rows that sum to 0. So by
Gershgorin the eigenvalues of `diag(H)^-1 H` lie in [0, 2] whatever the model: a step `gain (load - wanted) / H_jj`
is stable for every gain below 1, with no rate to tune. The gain is `GAIN` times the share of the violation that is
not sampling noise; once that is nothing, it falls like 1/n (the mean of n noisy steps is the best guess), down to
what keeps the load's own noise at `NOISE` relative; a violation beyond noise raises it again at once.

    held = start_holding(experts)                                # per layer
    chosen = top_k(logits + held.bias)                           # in every step
    held = cap_load(held, counts, logits, top_k, setpoint=0.1)   # after it

`counts` and `logits` may be numpy arrays (of a torch loop: `.numpy()`), and a part of the batch's logits will do.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from mfgjax.lab.rule import load_of

GAIN = 0.5
"""Half the bound at which the step could oscillate."""
NOISE = 0.01
"""Relative noise of the load that the price may cause at rest."""
KERNEL = 0.25
"""Width of the window on the edge, in standard deviations of the logits within a token."""
LEAST_SLOPE = 0.1
"""Slopes below this share of the mean slope count as this: a dead expert has none of its own."""
ALPHA_RANGE = (1e-6, 1.0)
ALPHA_RATE = 0.02
LOAD_RATE = 0.05


class Edge(NamedTuple):
    """Attributes:
    slope: d load_j / d bias_j, the diagonal of H.
    spread: standard deviation of the logits within a token.
    """

    slope: Float[Array, " expert"]
    spread: Float[Array, ""]


def edge_of(
    logits: Float[Array, "token expert"], bias: Float[Array, " expert"], top_k: int
) -> Edge:
    """The slope of each expert's load in its own bias, from the tokens on the edge of choosing it."""
    total = logits + bias[None]
    top = lax.top_k(total, top_k + 1)[0]
    last, next_ = top[:, -2:-1], top[:, -1:]
    margin = total - jnp.where(total >= last, next_, last)
    spread = jnp.sqrt(logits.var(axis=1).mean())
    width = KERNEL * spread + jnp.finfo(logits.dtype).tiny
    slope = jax.scipy.stats.norm.pdf(margin / width).mean(0) / (width * top_k)
    return Edge(jnp.maximum(slope, LEAST_SLOPE * slope.mean()), spread)


class Held(NamedTuple):
    """What a controller remembers of a layer.

    Attributes:
        bias: added to the logits before the choice.
        gain: of the last step, as a share of `GAIN`.
    """

    bias: Float[Array, " expert"]
    gain: Float[Array, ""]


def start_holding(experts: int) -> Held:
    """No bias, and the whole gain."""
    return Held(jnp.zeros(experts, jnp.float32), jnp.ones((), jnp.float32))


def gain_of(
    violation: Float[Array, " expert"], variance: Array, counts: Int[Array, " expert"], last: Array
) -> Float[Array, ""]:
    """The gain of this step, as a share of `GAIN`.

    Args:
        violation: of the load; 0 where no constraint acts.
        variance: of its entries if only noise were in them.
        counts: choices of each expert.
        last: gain of the step before.
    """
    acting = (violation != 0).sum()
    # the noise of a sum of squares is allowed for, or the gain would answer to chance
    sure = 1 + 3 * jnp.sqrt(2 / jnp.maximum(acting, 1).astype(jnp.float32))
    noise = acting.astype(jnp.float32) * variance * sure
    square = (violation**2).sum()
    signal = 1 - noise / jnp.where(square > 0, square, 1)
    least = 2 * NOISE**2 * counts.sum().astype(jnp.float32) / len(counts)
    falling = last / (1 + GAIN * last)
    return jnp.clip(jnp.maximum(jnp.maximum(signal, falling), least), 0, 1)


def cap_load(
    held: Held,
    counts: Int[Array, " expert"],
    logits: Float[Array, "token expert"],
    top_k: int,
    *,
    setpoint: float | Array,
    on: float | Array = 1.0,
) -> Held:
    """The bias of the next step, so that no expert's load exceeds `(1 + setpoint) / M`.

    Dual ascent with a price of at least 0 on experts that exceed it: of all assignments with that MaxVio the
    one with the largest sum of scores. A price cannot go below 0, so where the router is more even than
    asked, nothing winds up. The setpoint is one of the load itself: the noise of counts averages out of
    the price, and what a batch measures above it is the sampling floor.

    Args:
        held: from `start_holding` or the step before; its bias is at most 0.
        counts: choices of each expert in the last step, of the whole batch.
        logits: of some or all of its tokens, with what the bias is added to.
        top_k: experts per token; static.
        setpoint: MaxVio to hold, at least 0.
        on: 0 returns a bias of exactly 0: the run is bit for bit one without a controller.
    """
    bias, counts, logits = (jnp.asarray(x) for x in (held.bias, counts, logits))
    price, load, experts = -bias, load_of(counts), len(bias)
    over = load - (1 + setpoint) / experts
    over = jnp.where((price > 0) | (over > 0), over, 0)
    variance = 1 / (experts * counts.sum().astype(jnp.float32))
    slope, spread = edge_of(logits, bias, top_k)
    gain = gain_of(over, variance, counts, held.gain)
    price = jnp.maximum(price + jnp.clip(GAIN * gain * over / slope, -spread, spread), 0)
    return _switched(Held(-price, gain), on)


def set_congestion(
    held: Held,
    counts: Int[Array, " expert"],
    logits: Float[Array, "token expert"],
    top_k: int,
    *,
    setpoint: float | Array,
    on: float | Array = 1.0,
) -> Held:
    """The bias of the next step, so that it rests at `-setpoint (load - 1/M)`: congestion held by hand.

    The leaky price with its step divided by `1 + setpoint H_jj`, the diagonal of its Jacobian: it settles at every
    setpoint, where a fixed rate oscillates. Arguments as in `cap_load`; `setpoint` is in logits per unit of load.
    """
    bias, counts, logits = (jnp.asarray(x) for x in (held.bias, counts, logits))
    experts = len(bias)
    missing = bias + setpoint * (load_of(counts) - 1 / experts)
    variance = jnp.asarray(setpoint) ** 2 / (experts * counts.sum().astype(jnp.float32))
    slope, spread = edge_of(logits, bias, top_k)
    gain = gain_of(missing, variance, counts, held.gain)
    step = GAIN * gain * missing / (1 + setpoint * slope)
    return _switched(Held(bias - jnp.clip(step, -spread, spread), gain), on)


def _switched(held: Held, on: float | Array) -> Held:
    return held._replace(bias=jnp.where(jnp.asarray(on) > 0, held.bias, 0))


def move_alpha(
    alpha: Array,
    average: Float[Array, " expert"],
    counts: Int[Array, " expert"],
    *,
    setpoint: float | Array,
    on: float | Array = 1.0,
) -> tuple[Array, Float[Array, " expert"]]:
    """Alpha of the next step and the running load: alpha moves by at most 2% a step towards the setpoint.

    Alpha acts through the router's weights, with a delay nobody knows: the gain is small, and no bound is
    proven. Alpha stays within `ALPHA_RANGE`, where it stands still, so nothing winds up.

    Args:
        alpha: of the layer's Switch loss.
        average: running load; starts at 1/M.
        counts: choices of each expert in the last step.
        setpoint: MaxVio above its sampling floor to hold, above 0.
        on: 0 leaves alpha as it is.
    """
    experts, total = len(average), counts.sum().astype(jnp.float32)
    average = average + LOAD_RATE * (load_of(counts) - average)
    noise = jnp.sqrt(LOAD_RATE / (2 - LOAD_RATE) * experts / total)
    floor = noise * jnp.sqrt(2 * jnp.log(jnp.float32(experts)))
    above = jnp.maximum(experts * average.max() - 1 - floor, 0.01 * setpoint)
    wanted = alpha * jnp.exp(ALPHA_RATE * jnp.clip(jnp.log(above / setpoint), -1, 1))
    return jnp.where(jnp.asarray(on) > 0, jnp.clip(wanted, *ALPHA_RANGE), alpha), average
