"""A fitted type model on tokens, from the host."""

import jax
import jax.numpy as jnp
import numpy as np

from mfgjax.token_types.likelihood import TokenLikelihood, TypeModel, token_likelihood
from mfgjax.trace import TokenTrace

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
            jnp.pad(jnp.asarray(model.quality), ((0, absent), (0, 0))),
            jnp.pad(jnp.asarray(model.weight), (0, absent)),
            jnp.asarray(model.congestion),
            jnp.asarray(model.scale),
        )
        found = jax.device_get(_likelihood(filled, jnp.asarray(logits), jnp.asarray(dispatch)))
    return TokenLikelihood(found.joint, found.logits, found.type_probability[:, :types], found.load)


def dispatch_of(trace: TokenTrace) -> np.ndarray:
    """1 where a token chose an expert, `[token, layer, expert]`."""
    dispatch = np.zeros(trace.logits.shape)
    np.put_along_axis(dispatch, trace.choices.astype(np.int64), 1.0, axis=-1)
    return dispatch
