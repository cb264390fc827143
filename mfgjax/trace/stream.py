"""Per-text statistics while the model runs: jitted JAX on one batch, torch on the next.

    stream = StatisticsStream(write)
    with tap_routers(model) as tap:                          # of mfgjax_extract, or any source
        for texts, ids, text_of_row in batches:
            model(ids)
            layers = tap.latest.layers
            stream.add(texts, [x.logits for x in layers], [x.choices for x in layers], text_of_row)
    stream.close()

JAX returns before it has computed, so the sums of a batch overlap with the forward of the next.
At most `depth` batches are under way: memory does not grow with the number of texts.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfgjax.trace.choice_bound import SelectionRule, choice_bound
from mfgjax.trace.handover import from_tensor
from mfgjax.trace.schema import TextStatistics
from mfgjax.trace.statistics import per_text_statistics

Write = Callable[[Sequence[int], TextStatistics], None]


@partial(jax.jit, static_argnames="text_count")
def _sums(
    logits: tuple[Float[Array, "row expert"], ...],
    choices: tuple[Int[Array, "row top_k"], ...],
    text: Int[Array, " row"],
    text_count: int,
) -> TextStatistics:
    # Rows of padding have text = text_count: one text more, cut off again.
    stacked = jnp.stack([z.astype(jnp.float32) for z in logits], axis=1)
    chosen = jnp.stack([c.astype(jnp.int32) for c in choices], axis=1)
    stacked = jnp.where((text < text_count)[:, None, None], stacked, 0)  # pads may hold NaN
    sums = per_text_statistics(stacked, chosen, text, text_count + 1)
    return jax.tree.map(lambda x: x[:text_count], sums)


def _wide(logits: Array) -> jnp.dtype:
    return jnp.promote_types(logits.dtype, jnp.float32)


class StatisticsStream:
    """Sums batches of routing by text and hands the finished sums on, in order.

    Each distinct number of rows compiles once: batch texts to a few lengths.

    Args:
        write: called with the text numbers of a batch and their `TextStatistics` (leading axis
            text), when they are ready.
        depth: batches under way before `add` waits for the oldest.
        copy: allow copies of tensors whose memory cannot be shared.
        rules: per layer, what its choices rank; given, `choice_bound` is kept too.

    Attributes:
        choice_bound: `[layer, expert, expert]`, the largest bounds of all batches so far (see
            `mfgjax.trace.choice_bound`); None without `rules`, or before the first batch.
    """

    def __init__(
        self,
        write: Write,
        *,
        depth: int = 2,
        copy: bool = False,
        rules: Sequence[SelectionRule] | None = None,
    ):
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self._write = write
        self._depth = depth
        self._copy = copy
        self._rules = rules
        self.choice_bound: Float[Array, "layer expert expert"] | None = None
        self._pending: deque[tuple[Sequence[int], TextStatistics]] = deque()

    def add(
        self, texts: Sequence[int], logits: Sequence[Any], choices: Sequence[Any], text: Any
    ) -> None:
        """Start on one batch.

        Args:
            texts: the text numbers of the batch. A text must be wholly in one batch.
            logits: per layer, `[row, expert]` raw logits with `__dlpack__`; never written again.
            choices: per layer, `[row, top_k]` integer expert indices.
            text: `[row]` integers, position in `texts` of the row's text; `len(texts)` for
                padding, whose logits may be anything.
        """
        take = partial(from_tensor, copy=self._copy)
        shared = [take(z) for z in logits], [take(c) for c in choices]
        number = take(text).astype(jnp.int32)
        sums = _sums(*map(tuple, shared), number, len(texts))
        if self._rules is not None:
            padding = (number >= len(texts)).astype(jnp.int32)  # block 1 of one block
            found = [
                choice_bound(
                    z.astype(wide := _wide(z)), c, padding, jnp.zeros(z.shape, wide), 1, rule
                )[0]
                for z, c, rule in zip(*shared, self._rules, strict=True)
            ]
            bound = jnp.stack(found)
            known = self.choice_bound
            self.choice_bound = bound if known is None else jnp.maximum(known, bound)
        self._pending.append((list(texts), sums))
        while len(self._pending) > self._depth:
            self._hand_on()

    def close(self) -> None:
        """Wait for the batches under way and hand them on."""
        while self._pending:
            self._hand_on()

    def _hand_on(self) -> None:
        texts, sums = self._pending.popleft()
        self._write(texts, jax.block_until_ready(sums))
