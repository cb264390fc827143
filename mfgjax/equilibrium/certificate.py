"""A bound on the distance to the equilibrium that rounding cannot make too small.

Let `delta^k_i = log mu^k_i - (q^k_i - gamma F(f_i))/lambda` for fractions that sum to 1. With
`congestion >= 0` the duality gap is `lambda sum_k w_k KL(mu^k || Phi^k(f))`, the potential is
`lambda`-strongly convex in relative entropy, and Pinsker's inequality gives

    sum_k w_k |mu^k - mu*^k|_1^2 <= 2 sum_k w_k KL(mu^k || Phi^k(f)),                        (1)
    KL = log E exp(E delta - delta) <= Var(delta) phi(b),   phi(b) = (e^b - 1 - b)/b^2,       (2)

mean and variance under `mu^k`, `b = max(E delta - delta)` (Bennett's inequality). A standard
deviation is a seminorm, so rounding in `delta` of at most `eta_i` adds at most the root mean square
of `eta`. `eta` counts the roundings of the prices (whose loads are a sum of K products), of the
logits, of the log, and the distance of the given fractions from summing to 1.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.equilibrium.attraction import elasticity
from mfgjax.equilibrium.newton import Scaled

ULPS = 4  # assumed error of exp, log, a division and a cost, in units of the last place


def distance_bound(
    game: Scaled, load: Float[Array, " experts"], type_load: Float[Array, "types experts"]
) -> Float[Array, ""]:
    """Bound on `sqrt(sum_k w_k |mu^k - mu*^k|_1^2)`, rounding included; at most 2.

    Args:
        game: the game in units of its temperature, `ratio >= 0`.
        load: `sum_k w_k mu^k` as computed.
        type_load: nonnegative fractions of each type, summing to 1 up to rounding.
    """
    u = 0.5 * float(jnp.finfo(load.dtype).eps)
    depth = 2 + math.ceil(math.log2(load.shape[0]))  # of the pairwise sums
    cost = game.cost(load)
    logits = game.quality - (game.ratio * cost)[None, :]
    held = type_load > 0
    log_load = jnp.log(jnp.where(held, type_load, 1))
    delta = jnp.where(held, log_load - logits, 0)

    total = pairwise_sum(type_load)
    normal = jnp.abs(total - 1).max() + depth * u  # relative error of renormalised fractions
    terms = game.weight.shape[0]
    c = elasticity(game.cost, game.ratio, load)
    anchored = game.cost.slope(jnp.maximum(load, u)) * game.cost.landmark(load)
    in_price = c * (normal + (terms + ULPS) * u) + ULPS * u * game.ratio * (cost + anchored)
    in_logits = 2 * u * (jnp.abs(game.quality) + (game.ratio * cost)[None, :])
    eta = in_price[None, :] + in_logits + ULPS * u * (1 + jnp.abs(log_load))

    fraction = type_load / total[:, None]
    centred = jnp.where(held, delta - pairwise_sum(fraction * delta)[:, None], 0)
    spread = jnp.sqrt(pairwise_sum(fraction * centred**2))
    blur = jnp.sqrt(pairwise_sum(fraction * eta**2))
    worst = jnp.where(held, eta, 0).max(-1)
    drop = jnp.maximum(-centred.min(-1), 0) + 2 * worst
    # Experts whose fraction underflowed still attract: their response is mass that (2) leaves out.
    missed = jnp.where(held, 0, jnp.exp(logits - _log_total(logits))).sum(-1)
    small = jnp.minimum(drop, 30.0)
    bennett = jnp.where(small > 0.1, (jnp.expm1(small) - small) / small**2, 0.5 + 0.2 * small)
    divergence = (spread + blur) ** 2 * bennett + 2 * missed
    slack = 1 + 64 * u
    apart = jnp.sqrt(2 * jnp.sum(game.weight * divergence)) * slack + normal
    apart = jnp.where((drop <= 30).all(), apart, 2)
    return jnp.where(jnp.isnan(apart), 2, jnp.minimum(apart, 2))


def pairwise_sum(values: Float[Array, "*rows experts"]) -> Float[Array, "*rows"]:
    """Sum over the last axis by halves: the error grows with log2 of the length, in any order."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        odd = values[..., 2 * half :]
        values = jnp.concatenate([values[..., :half] + values[..., half : 2 * half], odd], axis=-1)
    return values[..., 0]


def _log_total(logits):
    top = logits.max(-1, keepdims=True)
    return top + jnp.log(jnp.exp(logits - top).sum(-1, keepdims=True))
