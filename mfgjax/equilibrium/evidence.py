"""Residual, duality gap and a distance bound that rounding cannot make too small.

With `congestion >= 0` the potential is `lambda`-strongly convex in relative entropy and the gap at
loads `mu`, responding with `pi^k = Phi^k(f)`, is `lambda sum_k w_k KL(mu^k || pi^k)`. Pinsker then gives

    sum_k w_k |mu^k - mu*^k|_1^2 <= 2 sum_k w_k KL(mu^k || pi^k) <= sum_k w_k chi_k^2 (1 + d_k),    (1)

`e = mu/pi - 1`, `chi^2 = sum_i pi_i e_i^2`, `d = max(-e, 0)`, because `(1 + e) log(1 + e) - e` is at
most `e^2/2` for `e >= 0` and `(1 + d) d^2/2` for `e = -d`. `chi` is a seminorm of `e`, so a relative
error of at most `zeta` in the computed response adds at most `2 zeta`. `zeta` counts the roundings
of the prices (whose loads are sums of K products), the logits, the exponential and the sums.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mfgjax.equilibrium.attraction import elasticity
from mfgjax.equilibrium.logarithm import logarithm
from mfgjax.equilibrium.scaled import Scaled

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
    u = 0.5 * float(jnp.finfo(load.dtype).eps)
    tiny = float(jnp.finfo(load.dtype).tiny)
    depth = 2 + math.ceil(math.log2(load.shape[0]))  # roundings in a pairwise sum, with a margin
    cost = game.ratio * game.cost(load)
    logits = game.quality - cost[None, :]
    raised = jnp.exp(logits - logits.max(-1, keepdims=True))
    response = raised * (1 / pairwise_sum(raised)[:, None])
    away = type_load - response
    residual = game.weight @ jnp.abs(away).sum(-1)

    held = (response > tiny) | (type_load > tiny)
    e = jnp.where(held, away / jnp.maximum(response, tiny), 0)
    largest = jnp.abs(e).max()
    gap = game.weight @ (response * _entropy_excess(e, largest)).sum(-1)

    normal = jnp.abs(pairwise_sum(type_load) - 1).max() + depth * u
    steep = elasticity(game.cost, game.ratio, load).max()
    anchored = game.ratio * game.cost.slope(jnp.maximum(load, u)) * game.cost.landmark(load)
    dearest = jnp.abs(cost).max()
    zeta = steep * (normal + (game.weight.shape[0] + ULPS) * u)
    zeta = zeta + ULPS * u * (dearest + anchored.max())
    zeta = zeta + 3 * u * (jnp.abs(game.quality).max() + dearest) + (2 * ULPS + depth) * u

    chi = jnp.sqrt(pairwise_sum(response * e**2))
    blur = 2 * zeta * (1 + largest) + normal
    square = game.weight @ (chi + blur) ** 2 * (1 + largest + 4 * zeta)
    lost = math.sqrt(2e4 * load.shape[0] * tiny)  # experts whose fraction has underflowed
    bound = jnp.sqrt(square) * (1 + 4 * zeta) + normal + lost
    bound = jnp.where((zeta < 0.1) & (bound < 2), bound, 2)  # NaN too
    return Evidence(residual, gap, bound)


def _entropy_excess(e: Float[Array, "types experts"], largest: Float[Array, ""]):
    """`(1 + e) log(1 + e) - e >= 0`, by its series unless `largest`, the largest `|e|`, is not small."""
    series = e**2 * (1 / 2 - e * (1 / 6 - e * (1 / 12 - e * (1 / 20 - e / 30))))

    def exact(state):
        # The loop runs once, and only for batches that need it; a cond would run for all.
        x = jnp.maximum(1 + jnp.where(state[1], e, 0), jnp.finfo(e.dtype).tiny)
        return jnp.where(jnp.abs(e) < 0.01, series, x * logarithm(x) - e), jnp.zeros((), bool)

    return lax.while_loop(lambda state: state[1], exact, (series, largest >= 0.01))[0]


def pairwise_sum(values: Float[Array, "*rows experts"]) -> Float[Array, "*rows"]:
    """Sum over the last axis by halves: the error grows with log2 of the length, in any order."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        odd = values[..., 2 * half :]
        values = jnp.concatenate([values[..., :half] + values[..., half : 2 * half], odd], axis=-1)
    return values[..., 0]
