"""Continuation spread: how much the load of a layer depends on the expert chosen a layer before.

Tokens are grouped by their favourite expert at layer l; eps_l is the largest L1 distance between a
group's mean load at layer l+1 and the load of all tokens (arXiv 2604.04230, Section 6.6; 0 to 2).
A maximum over small groups is large by chance alone, so three things stand beside it: the mean over
groups weighted by their tokens, the same numbers after shuffling which token has which favourite
(the null), and resamples of the texts.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from scipy.special import expit, softmax

from mfgjax.trace import TokenTrace


class ContinuationSpread(eqx.Module):
    """Distance of group loads from the common load, L1 (0 to 2).

    Attributes:
        largest: over groups of at least `min_tokens` tokens: eps_l.
        average: over groups, weighted by tokens.
    """

    largest: Float[Array, "*batch"]
    average: Float[Array, "*batch"]


def continuation_spread(
    favourite: Int[Array, " token"],
    dispatch: Float[Array, "token expert"],
    weight: Float[Array, " token"],
    min_tokens: float | Float[Array, ""] = 1.0,
) -> ContinuationSpread:
    """Spread between one pair of layers; batch with `jax.vmap`.

    Args:
        favourite: each token's favourite expert at the earlier layer.
        dispatch: each token's load at the later layer (0 or 1 per expert; any scale).
        weight: times each token counts: 1, or how often its text was drawn.
        min_tokens: smaller groups do not enter `largest`. Traced.
    """
    experts = dispatch.shape[-1]
    member = jax.nn.one_hot(favourite, experts, dtype=dispatch.dtype) * weight[:, None]
    return spread_of_counts(member.T @ dispatch, member.sum(0), min_tokens)


def spread_of_counts(
    joint: Float[Array, "group expert"],
    size: Float[Array, " group"],
    min_tokens: float | Float[Array, ""] = 1.0,
) -> ContinuationSpread:
    """The same from counts, for traces that keep no tokens.

    Args:
        joint: dispatches of each group to each expert of the later layer.
        size: tokens of each group.
        min_tokens: smaller groups do not enter `largest`. Traced.
    """
    common = joint.sum(0) / joint.sum()
    own = joint / jnp.maximum(joint.sum(-1, keepdims=True), 1e-30)
    distance = jnp.where(size > 0, jnp.abs(own - common[None, :]).sum(-1), 0)
    counted = jnp.where(size >= jnp.maximum(min_tokens, 1e-9), distance, -jnp.inf).max()
    return ContinuationSpread(
        largest=jnp.where(jnp.isfinite(counted), counted, jnp.nan),
        average=(size * distance).sum() / size.sum(),
    )


def _root_softplus(logits):
    return np.sqrt(np.logaddexp(0, logits))


def _softmax(logits):
    return softmax(logits, axis=-1)


# What a router adds its selection bias to: its scores; the logits where it scores after the choice.
# "softplus" is what is seen of routers that score by its root.
_SCORES = {
    "softmax": _softmax,
    "sigmoid": expit,
    "softplus": _root_softplus,
    "sqrtsoftplus": _root_softplus,
}


def favourite_experts(trace: TokenTrace) -> Int[np.ndarray, "token layer"]:
    """Of the experts that each token chose, the one with the highest selection score.

    The score is the logit, or any increasing function of it. A selection bias is added to what
    `trace.metadata.scoring` makes of the logits; where that names no known function, to what makes
    the recorded choices the highest scores most often. On the host.
    """
    logits, choices = np.asarray(trace.logits, np.float32), trace.choices.astype(np.int32)
    score = logits
    if trace.selection_bias is not None:
        bias, scoring = np.asarray(trace.selection_bias)[None], trace.metadata.scoring
        if scoring in _SCORES:
            score = _SCORES[scoring](logits) + bias
        elif scoring.endswith("-after-topk"):
            score = logits + bias
        else:
            every = [logits + bias, *(of(logits) + bias for of in _SCORES.values())]
            score = max(every, key=lambda score: _reproduced(score, choices))
    best = np.take_along_axis(score, choices, axis=-1).argmax(-1, keepdims=True)
    return np.take_along_axis(choices, best, axis=-1)[..., 0]


def _reproduced(score, choices) -> float:
    """Share of the choices that are among the highest scores."""
    lowest = np.sort(score, axis=-1)[..., -choices.shape[-1], None]
    return float((np.take_along_axis(score, choices, axis=-1) >= lowest).mean())


def token_dispatch(trace: TokenTrace) -> Float[np.ndarray, "token layer expert"]:
    """1 where the token's router chose the expert. On the host."""
    dispatch = np.zeros((*trace.choices.shape[:2], trace.metadata.experts), np.float32)
    np.put_along_axis(dispatch, trace.choices.astype(np.int64), 1, axis=-1)
    return dispatch


def estimate_continuation(
    trace: TokenTrace,
    weights: Float[Array | np.ndarray, "resample text"],
    *,
    min_tokens: float = 1.0,
) -> ContinuationSpread:
    """Spread of each adjacent pair of layers, under each weighting of the texts.

    Args:
        trace: with at least two layers.
        weights: one row per resample (`mfgjax.estimate.unit_weights`, `resample_weights`).
        min_tokens: smaller groups do not enter `largest`.

    Returns:
        Batch axes `resample`, `pair`.

    Raises:
        ValueError: for a trace of one layer.
    """
    favourite, dispatch = _pairs(trace)
    token_weights = np.asarray(weights)[:, trace.text]
    return _over_rows(favourite, dispatch, token_weights, np.float32(min_tokens))


def shuffled_continuation(
    trace: TokenTrace, key: Array, shuffles: int, *, min_tokens: float = 1.0
) -> ContinuationSpread:
    """The null: favourites shuffled over tokens, so that layers are independent.

    Group sizes and loads stay as they are. Topic shared by the tokens of a text is shuffled away
    too. Batch axes `shuffle`, `pair`.
    """
    return _over_shuffles(*_pairs(trace), key, np.float32(min_tokens), shuffles)


def _pairs(trace):
    if len(trace.metadata.layers) < 2:
        raise ValueError("continuation spread compares adjacent layers; this trace has one layer")
    return favourite_experts(trace)[:, :-1], token_dispatch(trace)[:, 1:]


@partial(jax.jit, static_argnames="shuffles")
def _over_shuffles(favourite, dispatch, key, min_tokens, shuffles: int):
    def one(index):
        order = jax.random.permutation(jax.random.fold_in(key, index), favourite.shape[0])
        row = jnp.ones((1, favourite.shape[0]), dispatch.dtype)
        spread = _over_rows(favourite[order], dispatch, row, min_tokens)
        return jax.tree.map(lambda leaf: leaf[0], spread)

    return lax.map(one, jnp.arange(shuffles))


@jax.jit
def _over_rows(favourite, dispatch, token_weights, min_tokens):
    pairs = jax.vmap(continuation_spread, in_axes=(1, 1, None, None))
    return lax.map(lambda row: pairs(favourite, dispatch, row, min_tokens), token_weights)
