"""A byte-level MoE transformer in flax nnx.

Pre-norm blocks of rotary attention and top-K SwiGLU experts, as OLMoE's; the router starts with std
`0.02 sqrt(2048 / width)`, so that its logits have the scale a 2048-wide model starts from (else the router
is flat and no rule differs from another). What the balancing rule remembers is a `Price`, a Variable class
of its own: an optimiser told `wrt=nnx.Param` cannot touch it. Nothing is shared or sown: every step is a pure
function of `nnx.split` state, in nnx's tree mode as in its graph mode.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mfgjax.lab.experts import DENSE_UP_TO, Weights, run_dense, run_padded
from mfgjax.lab.rule import Context, Layers, Rule, Selection, State

BYTES = 256
HEAD = 32
OLMOE_WIDTH = 2048


class Price(nnx.Variable):
    """What a balancing rule remembers, `[layer, ...]`."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a model; all static.

    Attributes:
        experts, top_k: per layer, M and K.
        layers, width: of the transformer.
        hidden: of one expert.
        capacity_factor: places per expert over T K / M, where places are counted at all; a choice
            beyond fails the run. Only used where M/K is above `DENSE_UP_TO`.
    """

    experts: int = 16
    top_k: int = 4
    layers: int = 2
    width: int = 64
    hidden: int = 32
    capacity_factor: float = 4.0

    def __post_init__(self):
        if not 1 <= self.top_k < self.experts:
            raise ValueError(
                f"top_k is {self.top_k} of {self.experts} experts: 1 to M - 1 expected"
            )
        if self.width % 2 or min(self.layers, self.width, self.hidden) < 1:
            raise ValueError(f"layers, width and hidden must be positive and width even: {self}")

    @property
    def dense(self) -> bool:
        return self.experts <= DENSE_UP_TO * self.top_k


class Routed(NamedTuple):
    """What the routers did, with a leading layer.

    Attributes:
        logits: raw router logits.
        choices, weights: see `Selection`.
        overflow: choices beyond the kernel's places.
    """

    logits: Float[Array, "layer token expert"]
    choices: Int[Array, "layer token choice"]
    weights: Float[Array, "layer token choice"]
    overflow: Int[Array, " layer"]


def normal(std: float, shape: Shape):
    """Normal first weights. One program draws those of every size: the first n of many draws are those of n alone."""
    width = shape.width
    largest = width * max(BYTES, 3 * width, shape.experts * shape.hidden)

    def draw(key: PRNGKeyArray, size: tuple[int, ...], dtype=jnp.float32, **_) -> Array:
        flat = jax.random.normal(key, (largest,), dtype)[: math.prod(size)]
        return flat.reshape(size) * jnp.asarray(std, dtype)

    return draw


class Attention(nnx.Module):
    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        width, start = shape.width, normal(0.02, shape)
        self.heads = max(1, width // HEAD)
        self.inward = nnx.Linear(width, 3 * width, use_bias=False, kernel_init=start, rngs=rngs)
        self.outward = nnx.Linear(width, width, use_bias=False, kernel_init=start, rngs=rngs)

    def __call__(self, x: Float[Array, "batch length width"]) -> Array:
        batch, length, width = x.shape
        split = self.inward(x).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split[:, :, 0], split[:, :, 1], split[:, :, 2]
        found = jax.nn.dot_product_attention(_rotate(query), _rotate(key), value, is_causal=True)
        return self.outward(found.reshape(batch, length, width))


def _rotate(x: Float[Array, "batch length head size"]) -> Array:
    """Rotary positions (Su et al., arXiv 2104.09864)."""
    half = x.shape[-1] // 2
    rate = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * rate[None]
    cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class Block(nnx.Module):
    """One layer."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        width, hidden, experts = shape.width, shape.hidden, shape.experts
        self.before_attention = nnx.RMSNorm(width, rngs=rngs)
        self.attention = Attention(shape, rngs)
        self.before_experts = nnx.RMSNorm(width, rngs=rngs)
        router = normal(0.02 * (OLMOE_WIDTH / width) ** 0.5, shape)
        start = normal(0.02, shape)
        self.router = nnx.Param(router(rngs.params(), (width, experts), jnp.float32))
        self.gate = nnx.Param(start(rngs.params(), (experts, width, hidden), jnp.float32))
        self.up = nnx.Param(start(rngs.params(), (experts, width, hidden), jnp.float32))
        self.down = nnx.Param(start(rngs.params(), (experts, hidden, width), jnp.float32))


class Model(nnx.Module):
    """The whole model; `rule` and `shape` are static.

    Args:
        shape: its sizes.
        rule: how its routers are balanced.
        settings: of the rule.
        rngs: of the first weights.
    """

    def __init__(self, shape: Shape, rule: Rule, settings: dict[str, float], rngs: nnx.Rngs):
        self.shape, self.rule = shape, rule
        start = normal(0.02, shape)
        self.embed = nnx.Embed(BYTES, shape.width, embedding_init=start, rngs=rngs)
        self.blocks = nnx.List([Block(shape, rngs) for _ in range(shape.layers)])
        self.norm = nnx.RMSNorm(shape.width, rngs=rngs)
        self.unembed = nnx.Linear(shape.width, BYTES, use_bias=False, kernel_init=start, rngs=rngs)
        state = rule.state(shape.experts, **settings)
        self.price = nnx.Dict(
            {name: Price(jnp.stack([value] * shape.layers)) for name, value in state.items()}
        )

    def __call__(
        self,
        windows: Int[Array, "micro batch length"],
        key: PRNGKeyArray,
        training: bool,
        kept: Float[Array, "layer expert"] | None = None,
    ) -> tuple[Float[Array, "micro batch length byte"], Routed, Float[Array, ""]]:
        """Logits of the next byte, what the routers did, and the loss of the balancing rule.

        Args:
            windows: bytes; each micro-batch is of one domain.
            key: for rules that draw.
            training: static.
            kept: 0 for experts whose output is taken out, 1 for the others.
        """
        micro, batch, length = windows.shape
        x = self.embed(windows.reshape(micro * batch, length))
        recent = jnp.stack([_earlier(windows, n) for n in range(3)], axis=-1).reshape(-1, 3)
        price = {name: self.price[name][...] for name in self.price}
        routed, contexts = [], []
        for layer, block in enumerate(self.blocks):
            x = x + block.attention(block.before_attention(x))
            tokens = block.before_experts(x).reshape(-1, self.shape.width)
            weight = block.router[...]
            context = Context(
                self.shape.top_k, micro, training, recent, jax.random.fold_in(key, layer), weight
            )
            state = {name: value[layer] for name, value in price.items()}
            output, one = self._experts(block, tokens, state, context, layer, kept)
            x = x + output.reshape(x.shape)
            routed.append(one)
            contexts.append(context)
        every = Routed(*(jnp.stack(parts) for parts in zip(*routed, strict=True)))
        loss = jnp.zeros((), jnp.float32)
        if self.rule.loss is not None and training:
            layers = Layers(every.logits, every.choices, jnp.stack([c.weight for c in contexts]))
            loss = self.rule.loss(layers, price, contexts[0])
        logits = self.unembed(self.norm(x)).reshape(micro, batch, length, BYTES)
        return logits, every, loss

    def _experts(self, block: Block, tokens, state: State, context: Context, layer: int, kept):
        logits = tokens @ context.weight
        selection = checked(self.rule, self.rule.select(logits, state, context), logits, context)
        choices, weights = selection
        if kept is not None:
            weights = weights * kept[layer][choices]
        matrices = Weights(block.gate[...], block.up[...], block.down[...])
        if self.shape.dense or self.rule.any_number:
            overflow = jnp.zeros((), jnp.int32)
            output = run_dense(tokens, choices, weights, matrices)
        else:
            share = len(tokens) * self.shape.top_k / self.shape.experts
            capacity = min(len(tokens), int(-(-self.shape.capacity_factor * share // 1)))
            output, overflow = run_padded(tokens, choices, weights, matrices, capacity)
        return output, Routed(logits, choices, selection.weights, overflow)


def checked(rule: Rule, selection: Selection, logits: Array, context: Context) -> Selection:
    """The selection, if its shapes are those of K choices per token.

    Raises:
        ValueError: another number of choices, or weights that are no numbers.
    """
    tokens, experts = logits.shape
    choices, weights = selection
    wide = experts if rule.any_number else context.top_k
    if choices.shape != (tokens, wide) or weights.shape != (tokens, wide):
        raise ValueError(
            f"the rule's select returned choices of shape {choices.shape} and weights of shape "
            f"{weights.shape}; {(tokens, wide)} was expected: {wide} for each of {tokens} tokens"
        )
    if not jnp.issubdtype(choices.dtype, jnp.integer) or weights.dtype != jnp.float32:
        raise ValueError(
            f"the rule's select returned {choices.dtype} choices and {weights.dtype} weights; "
            "integers and float32 were expected"
        )
    return selection


def wrong_choices(choices: Int[Array, "*batch choice"], experts: int, any_number: bool) -> Array:
    """Choices that are no expert, or that a token made twice."""
    hot = jax.nn.one_hot(choices, experts, dtype=jnp.int32).sum(-2)
    twice = jnp.maximum(hot - 1, 0).sum()
    outside = (choices >= experts) | (choices < (-1 if any_number else 0))
    return (twice + outside.sum()).astype(jnp.int32)


def _earlier(windows: Int[Array, "micro batch length"], by: int) -> Array:
    """The byte `by` places before each; 0 before the window."""
    length = windows.shape[-1]
    return jnp.pad(windows, ((0, 0), (0, 0), (by, 0)))[..., :length]
