"""Losses on the router: the Switch / GShard balance loss in four variants, z-loss, and SimBal."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mfgjax.lab.rule import Context, Layers, Rule, State
from mfgjax.lab.rules.plain import select_top_k


def balance_loss(
    layers: Layers, state: State, context: Context, *, pooled: bool, per_micro_batch: bool
) -> Array:
    """`sum_l alpha_l M sum_i f_li P_li`: f the share of choices, P the mean probability; 1 if balanced.

    Args:
        layers, state, context: see `Rule`; `state["alpha"]` is per layer.
        pooled: f and P averaged over layers before the product, as transformers does; times the number
            of layers, so that the pull on each probability is as strong as without.
        per_micro_batch: f of each micro-batch meets its own P, else f of the whole batch does
            (Qiu et al. 2025, arXiv 2501.11873).
    """
    count, _, experts = layers.logits.shape
    parts = context.micro_batches

    def mean(values):  # [layer, token, expert] -> [layer, micro, expert]
        return values.reshape(count, parts, -1, experts).mean(2)

    hot = jax.nn.one_hot(layers.choices, experts, dtype=jnp.float32).mean(2)
    load, probability = mean(hot), mean(jax.nn.softmax(layers.logits, axis=-1))
    if not per_micro_batch:
        load = jnp.broadcast_to(load.mean(1, keepdims=True), load.shape)
    if pooled:
        load, probability = (
            jnp.broadcast_to(x.mean(0, keepdims=True), x.shape) for x in (load, probability)
        )
    each = experts * (jax.lax.stop_gradient(load) * probability).sum(-1).mean(1)
    return (state["alpha"] * each).sum()


def z_loss(layers: Layers, state: State, context: Context) -> Array:
    """`coefficient sum_l mean_t (logsumexp of the logits)^2` (ST-MoE, arXiv 2202.08906, eq. 5)."""
    squared = jax.nn.logsumexp(layers.logits, axis=-1) ** 2
    return (state["coefficient"] * squared.mean(1)).sum()


def similarity_loss(layers: Layers, state: State, context: Context) -> Array:
    """`coefficient sum_l |R' R - I|_1` of the routers' matrices (SimBal, arXiv 2506.14038)."""
    gram = jnp.einsum("lwi,lwj->lij", layers.weight, layers.weight)
    off = jnp.abs(gram - jnp.eye(gram.shape[-1], dtype=gram.dtype)[None])
    return (state["coefficient"] * off.sum((1, 2))).sum()


def _balanced(pooled: bool, per_micro_batch: bool, about: str) -> Rule:
    loss = partial(balance_loss, pooled=pooled, per_micro_batch=per_micro_batch)
    return Rule(select_top_k, loss=loss, settings={"alpha": 0.01}, score="logits", about=about)


AUXILIARY = _balanced(
    False, False, "Switch loss per layer on the whole batch (arXiv 2101.03961; alpha 0.01)"
)
AUXILIARY_MICRO = _balanced(False, True, "Switch loss per layer and micro-batch")
AUXILIARY_POOLED = _balanced(
    True, False, "Switch loss with the layers pooled, as transformers has it"
)
AUXILIARY_POOLED_MICRO = _balanced(
    True, True, "Switch loss with the layers pooled, per micro-batch"
)
Z_LOSS = Rule(
    select_top_k,
    loss=z_loss,
    settings={"coefficient": 1e-3},
    score="logits",
    about="z-loss alone (ST-MoE, arXiv 2202.08906; 1e-3)",
)
SIMBAL = Rule(
    select_top_k,
    loss=similarity_loss,
    settings={"coefficient": 0.1},
    score="logits",
    about="router columns kept orthonormal (SimBal, arXiv 2506.14038; the coefficient 0.1 is ours)",
)
