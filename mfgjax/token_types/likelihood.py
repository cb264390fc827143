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

from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
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
    """Natural logarithms of densities, per token.

    Attributes:
        joint: of logits and choices, (1).
        logits: of the logits alone. `joint - logits` is that of the choices given the logits.
        type_probability: of each type, once logits and choices are seen.
    """

    joint: Float[Array, " token"]
    logits: Float[Array, " token"]
    type_probability: Float[Array, "token type"]


def type_loads(model: TypeModel) -> Float[Array, "type expert"]:
    """`mu^k` of (1): the load of each type at the coupled equilibrium of one layer.

    Differentiated implicitly. NaN where the equilibrium cannot be solved (bad parameters).
    """
    solution = solve_equilibrium(Game(model.quality, model.congestion, weight=model.weight))
    assert solution.type_load is not None  # the game has types
    return solution.type_load


def token_likelihood(
    model: TypeModel,
    type_load: Float[Array | np.ndarray, "type expert"],
    logits: Float[Array | np.ndarray, "token expert"],
    dispatch: Float[Array | np.ndarray, "token expert"],
    xp: ModuleType = jnp,
) -> TokenLikelihood:
    """Evaluate (1). One layer; pure, and differentiable in every array.

    Args:
        model: parameters; a type of weight 0 changes nothing.
        type_load: `type_loads(model)`.
        logits: centred router logits (each token's mean over experts taken off).
        dispatch: 1 where the token chose the expert.
        xp: `numpy` on the host, where each shape would be a program to compile.
    """
    log_sum: Any = (scipy.special if xp is np else jax.scipy.special).logsumexp
    inverse = 1 / model.scale**2
    whole, experts = inverse.sum(), logits.shape[-1]
    log_volume = (
        xp.log(model.scale).sum()
        + xp.log(whole / experts) / 2
        + (experts - 1) * np.log(2 * np.pi) / 2
    )
    # The square is expanded: what no type changes is then one number per token, not one per type.
    along = model.quality @ inverse
    own = -(logits**2 @ inverse - (logits @ inverse) ** 2 / whole) / 2 - log_volume
    slope = model.quality * inverse[None, :] - xp.outer(along, inverse) / whole
    level = -(model.quality**2 @ inverse - along**2 / whole) / 2
    tiny = xp.finfo(logits.dtype).tiny
    prior = level + xp.log(xp.maximum(model.weight, tiny))
    density = prior[None, :] + logits @ slope.T
    joint = density + dispatch @ xp.log(xp.maximum(type_load, tiny)).T
    each = log_sum(joint, axis=-1)
    return TokenLikelihood(
        joint=own + each,
        logits=own + log_sum(density, axis=-1),
        type_probability=xp.exp(joint - each[:, None]),
    )


def dispatch_of(trace: TokenTrace) -> np.ndarray:
    """1 where a token chose an expert, `[token, layer, expert]`."""
    dispatch = np.zeros(trace.logits.shape)
    np.put_along_axis(dispatch, trace.choices.astype(np.int64), 1.0, axis=-1)
    return dispatch
