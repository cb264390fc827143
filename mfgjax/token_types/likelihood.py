"""Likelihood of tokens under the multi-type routing game: what a type is, written as a model.

A token is of type k with probability `w_k`. Its router logits scatter around the quality of its type,
and each of its dispatches is drawn from the dispatch fractions of its type at the coupled equilibrium
(arXiv 2604.04230, Theorem 4.4, at temperature 1):

    p(z, c) = sum_k w_k  prod_i N(z_i; q^k_i, s_i^2)  prod_{i in c} mu^k_i,                 (1)
    mu^k = softmax(q^k - gamma f),    f = sum_k w_k mu^k.

A shift common to all logits of a token changes no choice: it is integrated out of (1), under a flat
prior. What is left is the density of the token's centred logits, normal in M - 1 dimensions.

k-means is the limit of equal w_k and equal, vanishing s_i in which choices say nothing. Derived for
this package; (1) has no counterpart in the paper, which clusters first and plays the game after.
Choices are treated as draws of their own (a top-K choice repeats no expert), and as independent of the
token's own logits given its type: that is the game's claim, not the router's rule.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from mfgjax.equilibrium import solve_equilibrium
from mfgjax.game import Game
from mfgjax.trace import TokenTrace


class TypeModel(eqx.Module):
    """Parameters of (1) for one layer. Logit units.

    Attributes:
        quality: centre of the logits of each type, and its quality in the game.
        weight: fraction of tokens of each type, summing to 1.
        congestion: shared by all types, >= 0.
        scale: standard deviation of a token's logit around its type's, per expert, > 0.
    """

    quality: Float[Array, "*batch type expert"]
    weight: Float[Array, "*batch type"]
    congestion: Float[Array, "*batch"]
    scale: Float[Array, "*batch expert"]


class TokenLikelihood(eqx.Module):
    """Natural logarithms of densities, per token, and the load that the model predicts.

    Attributes:
        joint: of logits and choices, (1).
        logits: of the logits alone. `joint - logits` is that of the choices given the logits.
        type_probability: of each type, once logits and choices are seen.
        load: of all types together, at the equilibrium.
    """

    joint: Float[Array, " token"]
    logits: Float[Array, " token"]
    type_probability: Float[Array, "token type"]
    load: Float[Array, " expert"]


def token_likelihood(
    model: TypeModel,
    logits: Float[Array, "token expert"],
    dispatch: Float[Array, "token expert"],
) -> TokenLikelihood:
    """Evaluate (1). One layer; pure, and differentiable in every array of `model`.

    The equilibrium is differentiated implicitly. NaN where it cannot be solved (bad parameters).

    Args:
        model: parameters; a type of weight 0 changes nothing.
        logits: centred router logits (each token's mean over experts taken off).
        dispatch: 1 where the token chose the expert.
    """
    game = Game(model.quality, model.congestion, weight=model.weight)
    solution = solve_equilibrium(game)
    type_load = solution.type_load
    assert type_load is not None  # the game has types
    inverse = 1 / model.scale**2
    whole = inverse.sum()
    distance = (
        (logits**2 @ inverse)[:, None]
        - 2 * logits @ (model.quality * inverse[None, :]).T
        + (model.quality**2 @ inverse)[None, :]
    )
    shift = (logits @ inverse)[:, None] - (model.quality @ inverse)[None, :]
    experts = logits.shape[-1]
    log_volume = (
        jnp.log(model.scale).sum()
        + jnp.log(whole / experts) / 2
        + (experts - 1) * jnp.log(2 * jnp.pi) / 2
    )
    normal = -(distance - shift**2 / whole) / 2 - log_volume
    tiny = jnp.finfo(logits.dtype).tiny
    prior = jnp.log(jnp.maximum(model.weight, tiny))[None, :]
    joint = prior + normal + dispatch @ jnp.log(jnp.maximum(type_load, tiny)).T
    return TokenLikelihood(
        joint=logsumexp(joint, axis=-1),
        logits=logsumexp(prior + normal, axis=-1),
        type_probability=jax.nn.softmax(joint, axis=-1),
        load=solution.load,
    )


_likelihood = jax.jit(token_likelihood)


def evaluate_types(
    model: TypeModel, logits: np.ndarray, dispatch: np.ndarray, most_types: int | None = None
) -> TokenLikelihood:
    """`token_likelihood` in float64, as NumPy arrays.

    Args:
        model: as `fit_types` returns it.
        logits: `[token, expert]`, centred.
        dispatch: `[token, expert]`, 1 where the token chose the expert.
        most_types: shape to fill up to, so that different numbers of types share a compilation.
    """
    types = model.weight.shape[0]
    absent = max(types, most_types or types) - types
    with jax.enable_x64(True):
        filled = TypeModel(
            np.pad(model.quality, ((0, absent), (0, 0))),  # pyright: ignore[reportArgumentType]
            np.pad(model.weight, (0, absent)),  # pyright: ignore[reportArgumentType]
            np.asarray(model.congestion),  # pyright: ignore[reportArgumentType]
            np.asarray(model.scale),  # pyright: ignore[reportArgumentType]
        )
        found = jax.device_get(_likelihood(filled, logits, dispatch))
    return TokenLikelihood(found.joint, found.logits, found.type_probability[:, :types], found.load)


def dispatch_of(trace: TokenTrace) -> np.ndarray:
    """1 where a token chose an expert, `[token, layer, expert]`."""
    dispatch = np.zeros(trace.logits.shape)
    np.put_along_axis(dispatch, trace.choices.astype(np.int64), 1.0, axis=-1)
    return dispatch
