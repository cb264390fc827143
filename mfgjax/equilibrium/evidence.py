"""Residual, duality gap and a distance bound that rounding cannot make too small.

With `congestion >= 0` the potential is `lambda`-strongly convex in relative entropy and the gap at
loads `mu`, responding with `pi^k = Phi^k(f)`, is `lambda sum_k w_k KL(mu^k || pi^k)`. Pinsker then gives

    sum_k w_k |mu^k - mu*^k|_1^2 <= 2 sum_k w_k KL(mu^k || pi^k) <= sum_k w_k chi_k^2 (1 + d_k),    (1)

`e = mu/pi - 1`, `chi^2 = sum_i pi_i e_i^2`, `d = max(-e, 0)`, because `(1 + e) log(1 + e) - e` is at
most `e^2/2` for `e >= 0` and `(1 + d) d^2/2` for `e = -d`. `chi` is a seminorm of `e`, so relative
errors `zeta_i` of the computed response add at most twice their root mean square. `zeta` counts the
roundings of the prices (whose loads are sums of K products), the logits and the exponential.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.equilibrium.attraction import elasticity
from mfgjax.equilibrium.logarithm import logarithm
from mfgjax.equilibrium.scaled import Scaled, net_quality

ULPS = 4  # assumed error of exp, a division and a cost, in units of the last place


class Evidence(NamedTuple):
    """What can be said of loads without knowing how they were found; units of the temperature."""

    residual: Float[Array, ""]
    gap: Float[Array, ""]
    bound: Float[Array, ""]


def examine(
    game: Scaled, load: Float[Array, " experts"], type_load: Float[Array, "types experts"]
) -> Evidence:
    """Evidence for `type_load`, `ratio >= 0` needed for `gap` and `bound`.

    Args:
        game: the game in units of its temperature.
        load: `sum_k w_k mu^k` as computed.
        type_load: nonnegative fractions of each type, summing to 1 up to rounding.
    """
    dtype = load.dtype
    tiny = float(jnp.finfo(dtype).tiny)
    logits = net_quality(game, load)
    raised = jnp.exp(logits - logits.max(-1, keepdims=True))
    response = raised * (1 / pairwise_sum(raised)[:, None])
    away = type_load - response
    residual = game.weight @ jnp.abs(away).sum(-1)

    held = (response > tiny) | (type_load > tiny)
    e = jnp.where(held, away / jnp.maximum(response, tiny), 0)
    gap = game.weight @ (response * _entropy_excess(e)).sum(-1)

    zeta = _relative_error(game, load, type_load)
    normal = jnp.abs(pairwise_sum(type_load) - 1).max() + _depth(load) * _half_ulp(dtype)
    chi = jnp.sqrt(pairwise_sum(response * e**2))
    blur = 2 * jnp.sqrt(pairwise_sum(response * zeta**2)) * (1 + jnp.abs(e).max(-1)) + normal
    worst = jnp.where(held, zeta, 0).max()
    drop = jnp.maximum(-e.min(-1), 0) + 4 * worst
    square = game.weight @ ((chi + blur) ** 2 * (1 + drop))
    lost = jnp.sqrt(2e4 * load.shape[0] * tiny)  # experts whose fraction has underflowed
    bound = jnp.sqrt(square) * (1 + 4 * worst) + normal + lost
    bound = jnp.where((worst < 0.1) & (bound < 2), bound, 2)  # NaN too
    return Evidence(residual, gap, bound)


def _relative_error(game: Scaled, load, type_load) -> Float[Array, "types experts"]:
    """Bound on the relative error of the computed response, before its normalisation."""
    u = _half_ulp(load.dtype)
    normal = jnp.abs(pairwise_sum(type_load) - 1).max() + _depth(load) * u
    cost = game.ratio * game.cost(load)
    steep = elasticity(game.cost, game.ratio, load)
    anchored = game.ratio * game.cost.slope(jnp.maximum(load, u)) * game.cost.landmark(load)
    in_price = steep * (normal + (game.weight.shape[0] + ULPS) * u) + ULPS * u * (cost + anchored)
    in_logits = 3 * u * (jnp.abs(game.quality) + cost[None, :])
    return in_price[None, :] + in_logits + (2 * ULPS + _depth(load)) * u


def _entropy_excess(e):
    """`(1 + e) log(1 + e) - e >= 0`, by its series where the difference would cancel."""
    near = jnp.abs(e) < 0.01
    s = jnp.where(near, e, 0)
    series = s**2 * (1 / 2 - s * (1 / 6 - s * (1 / 12 - s * (1 / 20 - s / 30))))
    x = jnp.maximum(1 + e, jnp.finfo(e.dtype).tiny)
    return jnp.where(near, series, x * logarithm(x) - e)


def _half_ulp(dtype) -> float:
    return 0.5 * float(jnp.finfo(dtype).eps)


def _depth(load) -> int:
    """Roundings in a pairwise sum over experts, with a margin for the product in each term."""
    return 2 + math.ceil(math.log2(load.shape[0]))


def pairwise_sum(values: Float[Array, "*rows experts"]) -> Float[Array, "*rows"]:
    """Sum over the last axis by halves: the error grows with log2 of the length, in any order."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        odd = values[..., 2 * half :]
        values = jnp.concatenate([values[..., :half] + values[..., half : 2 * half], odd], axis=-1)
    return values[..., 0]
