"""Training as pure functions: one step, a scan of steps, and the same over many runs at once.

A run is a seed and settings of its rule; runs of one rule are stacked on a leading axis and trained by
`jax.vmap`, with one program. The first weights and the order of the data come from the seed alone, so that
runs of one seed are paired across rules. Nothing here reads a file.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt32

from mfgjax.lab.corpus import draw_windows
from mfgjax.lab.model import Model, Price, Routed, Shape, wrong_choices
from mfgjax.lab.rule import Context, Rule, count_choices

_SHARE = 0.8
"""Of the free memory that a lab may plan with."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long and on what; all static.

    Attributes:
        steps: optimiser steps.
        chunk: steps of one scan; a divisor of `steps`. A resumed run goes on from a whole chunk.
        micro_batches, batch, length: windows of `length` bytes, `batch` in each single-domain micro-batch.
        learning_rate: its peak; linear warm-up, then a cosine to a tenth.
        warmup: steps of the warm-up.
    """

    steps: int = 300
    chunk: int = 50
    micro_batches: int = 3
    batch: int = 3
    length: int = 128
    learning_rate: float = 3e-3
    warmup: int = 30

    def __post_init__(self):
        if self.chunk < 1 or self.steps % self.chunk:
            raise ValueError(f"chunk is {self.chunk}: a divisor of the {self.steps} steps expected")
        if min(self.steps, self.micro_batches, self.batch, self.length) < 1:
            raise ValueError(f"steps, micro_batches, batch and length must be positive: {self}")

    @property
    def tokens(self) -> int:
        """Per step."""
        return self.micro_batches * self.batch * self.length


class State(NamedTuple):
    """All that a run goes on from; leaves have a leading run where runs are stacked.

    Attributes:
        params, moments: weights and what the optimiser keeps of them.
        price: what the rule remembers, per layer.
        step: steps taken.
        seed: of the run.
    """

    params: Any
    moments: Any
    price: Any
    step: Int[Array, ""]
    seed: UInt32[Array, ""]


class Record(NamedTuple):
    """What a step leaves behind, stacked over steps; on the device or the host.

    Attributes:
        loss: cross-entropy of the next byte, in nats.
        penalty: what the rule's loss added.
        counts: choices of each expert, `[layer, expert]`.
        overflow: choices that the kernel had no place for: those of a dropless run are 0.
        wrong: choices that are no expert, or made twice.
        dropped: choices with weight 0.
    """

    loss: Any
    penalty: Any
    counts: Any
    overflow: Any
    wrong: Any
    dropped: Any


def optimiser(plan: Plan) -> optax.GradientTransformation:
    """AdamW on clipped gradients, with weight decay on matrices only."""

    def rate(count):
        step = count.astype(jnp.float32)
        rising = plan.learning_rate * (step + 1) / max(1, plan.warmup)
        progress = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
        falling = plan.learning_rate * (0.1 + 0.45 * (1 + jnp.cos(jnp.pi * progress)))
        return jnp.where(step < plan.warmup, rising, falling)

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            rate,
            b1=0.9,
            b2=0.95,
            weight_decay=0.1,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim >= 2, params),
        ),
    )


def _split(model: Model) -> tuple[Any, Any, Any]:
    """What is static of a model, its weights, and what its rule remembers."""
    graph, params, price = nnx.split(model, nnx.Param, Price)
    return graph, params, price


class Trainer:
    """The functions of one rule, shape and plan; hold it, and each compiles once."""

    def __init__(self, shape: Shape, plan: Plan, rule: Rule):
        self.shape, self.plan, self.rule = shape, plan, rule
        self.optimiser = optimiser(plan)
        # without its arrays: whether they fit is asked later
        self.graph, *_ = _split(nnx.eval_shape(lambda: self._model(0, {})))
        self.run_chunk = jax.jit(jax.vmap(self._chunk, in_axes=(0, None, None)), donate_argnums=0)
        self._route = jax.jit(
            lambda params, price, windows: jax.lax.map(
                lambda own: self.evaluate(own[0], own[1], windows)[1], (params, price)
            )
        )
        self.losses = jax.jit(self.evaluate, static_argnames="rule")
        self.masked_losses = jax.jit(
            lambda params, price, windows, kept: jax.lax.map(
                lambda one: self.evaluate(params, price, windows, one)[0].mean(), kept
            )
        )

    def _model(self, seed: int, settings: dict[str, float]) -> Model:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        return Model(self.shape, self.rule, settings, nnx.Rngs(params=key))

    def first(self, seed: int, settings: dict[str, float]) -> State:
        """The first state of one run."""
        _, params, price = _split(self._model(seed, settings))
        step, number = jnp.zeros((), jnp.int32), jnp.asarray(seed, jnp.uint32)
        return State(params, self.optimiser.init(params), price, step, number)

    def start(self, runs: Sequence[tuple[int, dict[str, float]]]) -> State:
        """Stacked first states of `(seed, settings)`; on the host, where stacks need no program."""
        states = [self.first(seed, settings) for seed, settings in runs]
        return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *states)

    def _chunk(self, state: State, training, length) -> tuple[State, Record]:
        return jax.lax.scan(
            lambda state, _: self.step(state, training, length), state, length=self.plan.chunk
        )

    def step(self, state: State, training, length) -> tuple[State, Record]:
        """One optimiser step of one run. Pure."""
        plan, key = self.plan, jax.random.fold_in(jax.random.key(state.seed), 1)
        key = jax.random.fold_in(key, state.step)
        draw, route = jax.random.split(key)
        windows = draw_windows(
            draw,
            training,
            length,
            micro_batches=plan.micro_batches,
            batch=plan.batch,
            window=plan.length + 1,
        )

        def loss_of(params):
            model = nnx.merge(self.graph, params, state.price)
            logits, routed, penalty = model(windows[..., :-1], route, True)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, windows[..., 1:]).mean()
            return loss + penalty, (loss, penalty, routed)

        slopes, (loss, penalty, routed) = jax.grad(loss_of, has_aux=True)(state.params)
        # optax mixes Python and array dtypes
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            updates, moments = self.optimiser.update(slopes, state.moments, state.params)
        params = optax.apply_updates(state.params, updates)
        experts = self.shape.experts
        counts = jax.vmap(lambda c: count_choices(c, experts))(routed.choices)
        price = self._updated(state, counts, routed, route)
        record = Record(
            loss,
            penalty,
            counts,
            routed.overflow.sum(),
            wrong_choices(routed.choices, experts, self.rule.any_number),
            ((routed.weights == 0) & (routed.choices >= 0)).sum(dtype=jnp.int32),
        )
        return State(params, moments, price, state.step + 1, state.seed), record

    def _updated(self, state: State, counts, routed: Routed, key):
        """The rule's memory after the step, in the structure it came in."""
        model = nnx.merge(self.graph, state.params, state.price)
        before = {name: model.price[name][...] for name in model.price}
        weight = jnp.stack([block.router[...] for block in model.blocks])
        recent = jnp.zeros((routed.logits.shape[1], 3), jnp.int32)

        def one(memory, counts, logits, weight):
            context = Context(self.shape.top_k, self.plan.micro_batches, True, recent, key, weight)
            return self.rule.update(memory, counts, logits, context)

        after = jax.vmap(one)(before, counts, routed.logits, weight)
        if jax.tree.structure(after) != jax.tree.structure(before):
            raise ValueError(
                f"the rule's update returned {sorted(after)}; the state has {sorted(before)}"
            )
        for name, value in after.items():
            if value.shape != before[name].shape or value.dtype != before[name].dtype:
                raise ValueError(
                    f"the rule's update made {name!r} {value.dtype}{value.shape}; it was "
                    f"{before[name].dtype}{before[name].shape}"
                )
            model.price[name][...] = value
        return _split(model)[2]

    def route(self, state: State, windows: Int[np.ndarray, "text length"]) -> Routed:
        """What the routers of every stacked run do on texts, one run after the other."""
        return self._route(state.params, state.price, jnp.asarray(windows))

    def memory(self, price) -> dict[str, Array]:
        """What the rule remembers, by name, `[layer, ...]`."""
        named = price.get("price", {})  # a rule may remember nothing
        return {name: named[name][...] for name in named}

    def evaluate(
        self,
        params,
        price,
        windows: Int[Array, "text length"],
        kept: Float[Array, "layer expert"] | None = None,
        rule: Rule | None = None,
    ) -> tuple[Float[Array, "text length"], Routed]:
        """Cross-entropy of each next byte and what the routers did, of one run on `length - 1` bytes.

        Texts are one batch, in which rules that look at the batch see all of them. Pure.
        """
        model = nnx.merge(self.graph, params, price)
        if rule is not None:
            model.rule = rule
        logits, routed, _ = model(windows[None, :, :-1], jax.random.key(0), False, kept)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits[0], windows[:, 1:])
        return nll, routed


def memory_of(trainer: Trainer, runs: int) -> int:
    """Bytes that `runs` runs need at once: arguments, results and temporaries of one chunk."""
    one = jax.eval_shape(lambda: trainer.first(0, {}))
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct((runs, *x.shape), x.dtype), one)
    text = jax.ShapeDtypeStruct((3, 2_000_000), jnp.uint8), jax.ShapeDtypeStruct((3,), jnp.int32)
    used = trainer.run_chunk.lower(state, *text).compile().memory_analysis()
    if used is None:  # a backend that does not say
        return 0
    return used.temp_size_in_bytes + used.argument_size_in_bytes + used.output_size_in_bytes


def available_memory() -> int | None:
    """Bytes that may be planned with on the first device; None where nobody says."""
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(_SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    told = Path("/proc/meminfo")
    if device.platform == "cpu" and told.exists():
        for line in told.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(_SHARE * 1024 * int(line.split()[1]))
    if device.platform == "cpu" and hasattr(os, "sysconf"):
        return int(_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return None
