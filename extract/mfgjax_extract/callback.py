"""A transformers `TrainerCallback` that watches the routing of a run while it trains.

    trainer.add_callback(RoutingCallback(consumer, every=100))

Every 100 optimiser steps and in the last, `consumer` gets the per-sequence statistics of that step's batches.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor
from transformers import TrainerCallback

from mfgjax_extract.routers import find_routers, matching
from mfgjax_extract.statistics import sum_by_text
from mfgjax_extract.sweep_settings import layers_pattern
from mfgjax_extract.tap import RouterTap, Routing


@dataclass
class StepStatistics:
    """Sums over the tokens of each training sequence, float32 on the CPU: the statistics form.

    Attributes:
        step: optimiser steps done before this one.
        layers: module path per layer.
        token_count: `[sequence]` int32, padding excluded.
        logit_sum: `[sequence, layer, expert]`.
        centred_square_sum: `[sequence, layer, expert]`.
        probability_sum: `[sequence, layer, expert]`, of the softmax of the raw logits.
        dispatch_count: `[sequence, layer, expert]` int32.
    """

    step: int
    layers: tuple[str, ...]
    token_count: Tensor
    logit_sum: Tensor
    centred_square_sum: Tensor
    probability_sum: Tensor
    dispatch_count: Tensor


@dataclass
class _Collected:
    token_count: list[Tensor] = field(default_factory=list)
    logit_sum: list[Tensor] = field(default_factory=list)
    centred_square_sum: list[Tensor] = field(default_factory=list)
    probability_sum: list[Tensor] = field(default_factory=list)
    dispatch_count: list[Tensor] = field(default_factory=list)


class RoutingCallback(TrainerCallback):
    """Collects routing statistics every `every` optimiser steps, and in the last one.

    Batches of one step (gradient accumulation) are put together. Counted are forwards with
    gradients: not those of evaluation, generation or a reference model, and not the second forward
    of gradient checkpointing. Capacity drops are not reported here.

    A run that starts over (`train()` called again after it raised, `auto_find_batch_size`) reports
    its steps again, from the first. The trainer does not tell its callbacks that it raised: the
    hooks then stay on the model until the next `train()`, `close()`, or the end of the callback or
    of a `with` block around it.

    Args:
        consumer: called with a `StepStatistics` at the end of each sampled step.
        every: sample one step in this many.
        layers: regular expression; only routers whose path it finds are watched.
    """

    def __init__(
        self, consumer: Callable[[StepStatistics], None], every: int = 100, layers: str = ""
    ):
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self._consumer = consumer
        self._every = every
        self._pattern = layers_pattern(layers).pattern
        self._tap: RouterTap | None = None
        self._collected = _Collected()

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if model is None:
            raise ValueError("RoutingCallback got no model from the trainer")
        self.close()  # of a run that raised, else its hooks would count beside the new ones
        found = [r for r in find_routers(model) if r.reached_by_text and not r.in_encoder]
        add = weakref.WeakMethod(self._add)  # the model's hooks do not keep this callback alive

        def consume(routing: Routing) -> None:
            if (method := add()) is not None:
                method(routing)

        self._tap = RouterTap(model, consume, routers=matching(found, self._pattern))
        self._tap.enabled = False  # until a step begins: evaluation is not watched
        self._tap.__enter__()
        weakref.finalize(self, self._tap.close)

    def on_step_begin(self, args, state, control, **kwargs):
        if self._tap is not None:
            self._collected = _Collected()
            last = state.global_step + 1 == state.max_steps
            self._tap.enabled = last or state.global_step % self._every == 0

    def on_step_end(self, args, state, control, **kwargs):
        if self._tap is None or not self._tap.enabled:
            return
        self._tap.enabled = False
        collected, self._collected = self._collected, _Collected()
        if collected.token_count:
            parts = {f.name: torch.cat(getattr(collected, f.name)) for f in fields(_Collected)}
            layers = tuple(r.path for r in self._tap.routers)
            # The trainer counts the step before it calls on_step_end.
            self._consumer(StepStatistics(step=state.global_step - 1, layers=layers, **parts))

    def on_train_end(self, args, state, control, **kwargs):
        self.close()

    def close(self) -> None:
        """Take the hooks off the model and forget what was collected; a new run sets new ones."""
        if self._tap is not None:
            self._tap.close()
        self._tap = None
        self._collected = _Collected()

    def __enter__(self) -> "RoutingCallback":
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def _add(self, routing: Routing) -> None:
        if not torch.is_grad_enabled():
            return
        rows = routing.layers[0].logits.shape[0]
        device = routing.layers[0].logits.device
        kept = torch.arange(rows, device=device)
        if routing.mask is not None:
            kept = kept[routing.mask]
        sequence = kept // (rows // routing.sequences)
        sums = [
            sum_by_text(x.logits[kept], x.choices[kept], sequence, routing.sequences)
            for x in routing.layers
        ]
        count = torch.bincount(sequence, minlength=routing.sequences)
        self._collected.token_count.append(count.to("cpu", torch.int32))
        for name in ("logit_sum", "centred_square_sum", "probability_sum"):
            stacked = torch.stack([getattr(s, name) for s in sums], dim=1)
            getattr(self._collected, name).append(stacked.to("cpu", torch.float32))
        counts = torch.stack([s.dispatch_count for s in sums], dim=1)
        self._collected.dispatch_count.append(counts.to("cpu", torch.int32))
