"""Residual, duality gap and a distance bound that rounding cannot make too small.

With `congestion >= 0` the potential is `lambda`-strongly convex in relative entropy and the gap at
loads `mu`, responding with `pi^k = Phi^k(f)`, is `lambda sum_k w_k KL(mu^k || pi^k)`. Pinsker then gives

    sum_k w_k |mu^k - mu*^k|_1^2 <= 2 sum_k w_k KL(mu^k || pi^k) <= sum_k w_k chi_k^2 (1 + d_k),    (1)

`e = mu/pi - 1`, `chi^2 = sum_i pi_i e_i^2`, `d = max(-e, 0)`, because `(1 + e) log(1 + e) - e` is at
most `e^2/2` for `e >= 0` and `(1 + d) d^2/2` for `e = -d`. `chi` is a seminorm of `e`, so a relative
error of at most `zeta` in the computed response adds at most `2 zeta`.

Loads that are not fractions summing to 1 are judged by the nearest such rows `mu` in direction, and
their L1 distance from those is added to the residual and to the bound.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.equilibrium.attraction import elasticity
from mfgjax.equilibrium.logarithm import logarithm
from mfgjax.equilibrium.loop import where_needed
from mfgjax.equilibrium.scaled import Scaled, mean_load

ULPS = 4  # assumed error of exp, a division and a cost, in units of the last place
EXPANDED = 0.1  # the largest zeta for which its square is covered by the factors that hold it
SMALL = 0.01  # the largest `|e|` for the series


class Certificate(NamedTuple):
    """What can be said of loads without knowing how they were found; units of the temperature.

    Attributes:
        residual: `sum_k w_k |Phi^k(f) - mu^k|_1`, plus `outside`.
        gap: duality gap.
        bound: of `sqrt(sum_k w_k |mu^k - mu*^k|_1^2)`, rounding included.
        outside: L1 distance of the loads from fractions that sum to 1; the largest over types.
        steep: largest elasticity of a price, in size, in the load and in what the cost subtracts from
            it: what a rounding of either is magnified by.
        rounding: largest relative error that rounding can leave in a response.
    """

    residual: Float[Array, ""]
    gap: Float[Array, ""]
    bound: Float[Array, ""]
    outside: Float[Array, ""]
    steep: Float[Array, ""]
    rounding: Float[Array, ""]


def certify(game: Scaled, given: Float[Array, "types experts"]) -> Certificate:
    """What is certain of `given`; `ratio >= 0` is needed for `gap` and `bound`.

    Args:
        game: the game in units of its temperature.
        given: fractions of each type; loads off the simplex, negative or not finite are told by
            `outside` and an infinite bound, not refused.
    """
    tiny = float(jnp.finfo(given.dtype).tiny)
    rows, outside = _onto_simplex(given)
    load = mean_load(game, rows)
    price = game.ratio * game.cost(load)
    response = _response(game.quality - price[None, :])
    away = rows - response
    residual = game.weight @ jnp.abs(away).sum(-1) + outside

    held = (response > tiny) | (rows > tiny)
    e = jnp.where(held, away / jnp.maximum(response, tiny), 0)
    largest = jnp.abs(e).max()
    gap = _gap(game.weight, response, e, largest)

    steep = jnp.abs(elasticity(game.cost, game.ratio, load)).max()
    slope = game.cost.slope(jnp.maximum(load, _unit(load)))
    shifted = (game.ratio * slope * game.cost.offset(load)).max()
    short = jnp.abs(pairwise_sum(rows) - 1).max() + _depth(rows) * _unit(rows)
    zeta = _response_error(game, load, price, steep, shifted, short)
    chi = jnp.sqrt(pairwise_sum(response * e**2)) + 2 * zeta * (1 + largest) + short
    squared = (game.weight * chi**2).sum() * (1 + largest + 4 * zeta)
    underflowed = math.sqrt(2e4 * rows.shape[1] * tiny)
    bound = jnp.sqrt(squared) * (1 + 4 * zeta) + short + underflowed
    bound = jnp.where((zeta < EXPANDED) & (bound < 2), bound, 2) + outside
    bound = jnp.where(jnp.isnan(outside), jnp.inf, bound)
    return Certificate(residual, gap, bound, outside, steep + jnp.abs(shifted), zeta)


def _onto_simplex(given: Float[Array, "types experts"]):
    """Rows in the direction of `given` that sum to 1, and the largest L1 distance moved (up to rounding)."""
    above = jnp.maximum(given, 0)
    total = pairwise_sum(above)
    even = jnp.full_like(above, 1 / above.shape[1])
    usable = (total > 0) & jnp.isfinite(total)
    scaled = above / jnp.where(usable, total, 1)[:, None]
    rows = jnp.where(usable[:, None], scaled, even)
    moved = pairwise_sum(jnp.abs(given - rows)).max()
    return rows, moved * (1 + 2 * _depth(rows) * _unit(rows))


def _response(logits: Float[Array, "types experts"]) -> Float[Array, "types experts"]:
    raised = jnp.exp(logits - logits.max(-1, keepdims=True))
    return raised * (1 / pairwise_sum(raised)[:, None])


def _response_error(game: Scaled, load, price, steep, shifted, short) -> Float[Array, ""]:
    """`zeta`: largest relative error of a computed response.

    It counts the roundings of loads (sums of K products, `short` of 1), prices, logits, the
    exponential and the sums.
    """
    u = _unit(load)
    highest = jnp.abs(price).max()
    of_prices = steep * (short + (game.weight.shape[0] + ULPS) * u)
    of_prices = of_prices + ULPS * u * (highest + shifted)
    of_logits = 3 * u * (jnp.abs(game.quality).max() + highest)
    return of_prices + of_logits + (2 * ULPS + _depth(load)) * u


def _unit(values) -> float:
    return 0.5 * float(jnp.finfo(values.dtype).eps)


def _depth(values) -> int:
    """Roundings in a pairwise sum over experts, with a margin."""
    return 2 + math.ceil(math.log2(values.shape[-1]))


def _gap(weight, response, e, largest: Float[Array, ""]) -> Float[Array, ""]:
    """`sum_k w_k sum_i pi_i ((1 + e_i) log(1 + e_i) - e_i)`; by its series while all `|e|` are small."""

    def total(excess):
        return weight @ pairwise_sum(response * excess)

    def series(e):
        return e**2 * (1 / 2 - e * (1 / 6 - e * (1 / 12 - e * (1 / 20 - e / 30))))

    def exact(e):
        x = jnp.maximum(1 + e, jnp.finfo(e.dtype).tiny)
        return total(jnp.where(jnp.abs(e) < SMALL, series(e), x * logarithm(x) - e))

    return where_needed(largest >= SMALL, exact, total(series(e)), e)


def pairwise_sum(values: Float[Array, "*rows experts"]) -> Float[Array, "*rows"]:
    """Sum over the last axis by halves: the error grows with log2 of the length, in any order."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        odd = values[..., 2 * half :]
        values = jnp.concatenate([values[..., :half] + values[..., half : 2 * half], odd], axis=-1)
    return values[..., 0]
