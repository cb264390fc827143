"""Potential, dual and duality gap of a game with `congestion >= 0`.

Equilibria are the minimisers of the convex potential (arXiv 2604.04230, Definition 4.3, with
`G' = gamma F` for a general cost)

    Psi(mu) = sum_i G(f_i) - sum_k w_k q^k . mu^k + lambda sum_k w_k sum_i mu^k_i log mu^k_i,    (1)

and, in prices `p = gamma F(f)`, the maximisers of `-D`,

    D(p) = G*(p) + lambda sum_k w_k logsumexp((q^k - p)/lambda).                              (2)

At the loads' own prices, `Psi + D = lambda sum_k w_k KL(mu^k || Phi^k(f))`: the gap
is a divergence, computed without cancellation, and never negative.
"""

import jax.numpy as jnp
from jax.scipy.special import logsumexp, xlogy
from jaxtyping import Array, Float

from mfgjax.game.game import Game
from mfgjax.game.precision import full_precision
from mfgjax.game.response import aggregate, price, response_logits


@full_precision
def potential(game: Game, type_load: Float[Array, "*types experts"]) -> Float[Array, ""]:
    """`Psi` of (1), in logits, at dispatch fractions that sum to 1 for each type."""
    weight = _weights(game)
    rows = type_load.reshape(weight.shape[0], -1)
    quality = game.quality.reshape(rows.shape)
    congestion = game.congestion * game.cost.integral(aggregate(game, type_load)).sum()
    own = game.temperature * xlogy(rows, rows) - quality * rows
    return congestion + weight @ own.sum(-1)


@full_precision
def dual(game: Game, load: Float[Array, " experts"]) -> Float[Array, ""]:
    """`D` of (2), in logits, at the prices `gamma F(load)`; `load` need not sum to 1."""
    conjugate = price(game, load) * load - game.congestion * game.cost.integral(load)
    soft = logsumexp(response_logits(game, load), axis=-1)
    return conjugate.sum() + game.temperature * (_weights(game) @ soft.reshape(-1))


@full_precision
def gap(game: Game, type_load: Float[Array, "*types experts"]) -> Float[Array, ""]:
    """Duality gap of dispatch fractions at their own prices, in logits, >= 0.

    With `congestion >= 0`, `sum_k w_k |mu^k - mu*^k|_1^2 <= 2 gap / temperature`.
    """
    logits = response_logits(game, aggregate(game, type_load))
    log_response = logits - logsumexp(logits, axis=-1, keepdims=True)
    return game.temperature * (_weights(game) @ divergence(type_load, log_response).reshape(-1))


def divergence(
    left: Float[Array, "*types experts"], log_right: Float[Array, "*types experts"]
) -> Float[Array, "*types"]:
    """`sum_i left_i log(left_i / right_i) - left_i + right_i`, a sum of nonnegative terms."""
    away = jnp.where(left > 0, log_right - jnp.log(jnp.where(left > 0, left, 1)), 0)
    terms = jnp.where(left > 0, left * (jnp.expm1(away) - away), jnp.exp(log_right))
    return jnp.maximum(terms, 0).sum(-1)


def _weights(game: Game) -> Float[Array, " types"]:
    return jnp.ones((1,), game.quality.dtype) if game.weight is None else game.weight
