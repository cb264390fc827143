"""Sums of one routing in JAX: the front for flax, optax and plain loops. Two lines in a training step:

    sums = {"layer_0": routing_sums(logits, choices), ...}     # inside jit, returned as auxiliary output
    monitor.observe(step, sums)                                # outside, at sampled steps

The names, and the numbers to 1e-6, are those of the torch front.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def routing_sums(
    logits: Float[Array, "token expert"],
    choices: Int[Array, "token top_k"],
    mask: Bool[Array, " token"] | None = None,
    *,
    bias: Float[Array, " expert"] | None = None,
) -> dict[str, Array]:
    """What `Monitor.observe` takes of one layer. Traced, jit and vmap safe, no gradient.

    Sums are in float32, or in float64 where x64 is on; counts are exact in either (int32).

    Args:
        logits: raw router logits, in the dtype of the model.
        choices: experts really chosen.
        mask: False on padding.
        bias: selection bias, if the router has one.

    Returns:
        Arrays by the names of `mfgjax.monitor.sums.LayerSums`; `top_k` is a Python number.
    """
    tokens, experts = logits.shape
    wide = jnp.result_type(float)
    kept = jnp.ones(tokens, bool) if mask is None else mask
    finite = jnp.isfinite(logits).all(-1)
    usable = kept & finite
    z = jnp.where(usable[:, None], jax.lax.stop_gradient(logits), 0).astype(wide)
    weight = usable.astype(wide)
    log_sum = jax.nn.logsumexp(z, axis=-1)
    centred = z - z.mean(-1, keepdims=True)

    def count(rows: Bool[Array, " token"]) -> Int[Array, " expert"]:
        each = jnp.broadcast_to(rows[:, None], choices.shape).astype(jnp.int32)
        return jnp.zeros(experts, jnp.int32).at[choices].add(each)

    found = {
        "tokens": kept.sum(dtype=jnp.int32),
        "top_k": choices.shape[1],
        "count": count(kept),
        "logit_sum": z.sum(0),
        "centred_square_sum": (centred**2).sum(),
        "probability_sum": weight @ jax.nn.softmax(z, axis=-1),
        "lse_square_sum": (weight * log_sum**2).sum(),
        "broken": (kept & ~finite).sum(dtype=jnp.int32),
        "padding": count(~kept),
        "like_probabilities": _like_probabilities(z, usable),
    }
    if bias is not None:
        found["bias"] = jax.lax.stop_gradient(bias)
        found["bias_bits"] = jnp.finfo(bias.dtype).nmant + 1
    return found


def _like_probabilities(
    z: Float[Array, "token expert"], usable: Bool[Array, " token"]
) -> Int[Array, ""]:
    near = (z >= 0).all(-1) & (jnp.abs(z.sum(-1) - 1) < 1e-2)
    return (near & usable).sum(dtype=jnp.int32)


def to_host(sums: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Copy the sums of all layers to the host, at once."""
    plain = jax.device_get({name: dict(layer) for name, layer in sums.items()})
    scalars = (
        *("tokens", "top_k", "broken", "bias_bits", "like_probabilities"),
        *("centred_square_sum", "lse_square_sum"),
    )
    for layer in plain.values():
        for key in scalars:
            if key in layer:
                layer[key] = layer[key].item() if hasattr(layer[key], "item") else layer[key]
    return plain
