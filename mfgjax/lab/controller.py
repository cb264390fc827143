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
        noise: variance that sampling has left in each held load, relative to 1/M (`expected_excess`).
    """

    bias: Float[Array, " expert"]
    gain: Float[Array, ""]
    noise: Float[Array, ""]


def start_holding(experts: int) -> Held:
    """No bias, the whole gain, and no noise yet."""
    nothing = jnp.zeros((), jnp.float32)
    return Held(jnp.zeros(experts, jnp.float32), jnp.ones((), jnp.float32), nothing)


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


def sampling_variance(
    setpoint: float | Array, counts: Int[Array, " expert"], top_k: int
) -> Float[Array, ""]:
    """Variance over sampling, relative to 1/M, of the load of an expert at its cap.

    `T` tokens choose it with chance `p = min(K (1 + setpoint) / M, 1)`: the variance of its count is
    `T p (1 - p)`, over the square of the mean count `T K / M`.
    """
    mean_count = counts.sum().astype(jnp.float32) / len(counts)
    chance = jnp.minimum(top_k * (1 + setpoint) / len(counts), 1)
    return (1 + setpoint) * (1 - chance) / jnp.maximum(mean_count, 1)


def expected_excess(noise: Array, held: Array) -> Float[Array, ""]:
    """Mean of the largest of `held` independent normals of variance `noise` and mean 0; 0 for none or one.

    To 5%, by Blom's score `Phi^-1((n - 3/8) / (n + 1/4))` (Blom, Statistical Estimates and Transformed
    Beta-Variables, 1958); `sampling_floor.py` has the exact one of a number known beforehand.
    """
    number = jnp.maximum(held, 1).astype(jnp.float32)
    return jnp.sqrt(noise) * jax.scipy.special.ndtri((number - 0.375) / (number + 0.25))


def cap_load(
    held: Held,
    counts: Int[Array, " expert"],
    logits: Float[Array, "token expert"],
    top_k: int,
    *,
    setpoint: float | Array,
    on: float | Array = 1.0,
) -> Held:
    """The bias of the next step, so that MaxVio, the largest load over 1/M minus 1, rests at `setpoint`.

    Dual ascent with a price of at least 0 on experts that exceed a cap: of all assignments with that MaxVio the
    one with the largest sum of scores. A price cannot go below 0, so where the router is more even than
    asked, nothing winds up.

    The setpoint is corrected for noise. Each load at the cap is held on average; MaxVio is the largest of them.
    A step `g = GAIN gain` moves the load by `g` times its distance (the mean eigenvalue of `diag(H)^-1 H` is 1),
    of which counts show it with sampling variance s^2, so the variance left in the load follows

        v <- (1 - g)^2 v + g^2 s^2:    g s^2 / (2 - g) at a fixed gain, s^2 / n while the gain falls like 1/n.

    So the cap is `setpoint - e_A sqrt(v)`, with e_A the mean of the largest of A standard normals and A the number
    of experts with a price, and not below half the setpoint: while the gain is large, noise might ask for more
    than there is. What MaxVio of a batch shows above this is the floor of its own sampling. Tokens are taken for
    independent: where a batch is few windows, whose tokens are alike, loads swing more than s^2 says, and single
    steps end above the setpoint (docs/lab.md, "The controller").

    Args:
        held: from `start_holding` or the step before; its bias is at most 0.
        counts: choices of each expert in the last step, of the whole batch.
        logits: of some or all of its tokens, with what the bias is added to.
        top_k: experts per token; static.
        setpoint: MaxVio of the expected load to hold, at least 0.
        on: 0 returns a bias of exactly 0: the run is bit for bit one without a controller.
    """
    bias, counts, logits = (jnp.asarray(x) for x in (held.bias, counts, logits))
    price, load, experts = -bias, load_of(counts), len(bias)
    excess = expected_excess(held.noise, (price > 0).sum())
    cap = jnp.maximum(setpoint - excess, setpoint / 2)
    over = load - (1 + cap) / experts
    over = jnp.where((price > 0) | (over > 0), over, 0)
    variance = 1 / (experts * counts.sum().astype(jnp.float32))
    slope, spread = edge_of(logits, bias, top_k)
    gain = gain_of(over, variance, counts, held.gain)
    price = jnp.maximum(price + jnp.clip(GAIN * gain * over / slope, -spread, spread), 0)
    return _switched(Held(-price, gain, _noise_left(held, gain, setpoint, counts, top_k)), on)


def _noise_left(held: Held, gain: Array, setpoint, counts: Array, top_k: int) -> Array:
    step = GAIN * gain
    return (1 - step) ** 2 * held.noise + step**2 * sampling_variance(setpoint, counts, top_k)


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
    return _switched(held._replace(bias=bias - jnp.clip(step, -spread, spread), gain=gain), on)


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
