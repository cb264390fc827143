"""A context manager that hands over raw logits and choices of every forward of a live model.

    with tap_routers(model, consumer) as tap:
        model(**batch)          # consumer(routing) is called as the forward ends

It works on the model that is there: hooks only, no weight touched, model output bit-equal with
and without. In training nothing of the graph is kept, `every=n` samples every n-th forward, and
the second forward of gradient checkpointing (during backward) is ignored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mfgjax_extract.capture import Calls, RecordCalls, chosen_experts, combine_weights
from mfgjax_extract.checks import (
    RoutingError,
    check_layer,
    check_not_compiled,
    check_rows,
    check_values,
)
from mfgjax_extract.forward_inputs import ForwardInputs, named_inputs
from mfgjax_extract.routers import Router, find_routers, is_encoder_decoder


@dataclass(frozen=True)
class LayerRouting:
    """One router, one forward. Rows are tokens, row-major over (batch, position), pads included.

    Attributes:
        path: module path of the router.
        logits: `[row, expert]` raw router logits, in the dtype the model computed them in.
        choices: `[row, top_k]` int32 experts really chosen; order within a row has no meaning.
        dispatched: `[row, top_k]` bool, False where an expert over capacity refused the token;
            None for routers without capacity.
        scoring: function that the router was seen to apply to its logits, None if none was seen.
        ranked: indices and values, `[row, ...]`, of its last top-k over all experts; None if none was
            seen.
        weights: `[row, top_k]` what the experts' outputs are weighed with, None if it was not seen.
        attached: the logits as part of the graph, if the tap was asked for them.
    """

    path: str
    logits: Tensor
    choices: Tensor
    dispatched: Tensor | None = None
    scoring: str | None = None
    ranked: tuple[Tensor, Tensor] | None = None
    weights: Tensor | None = None
    attached: Tensor | None = None


@dataclass(frozen=True)
class Routing:
    """All routers of one forward.

    Attributes:
        layers: one entry per tapped router, in module order.
        mask: `[row]` bool, False on padding; None when the forward got no `[batch, position]`
            attention mask.
        encoder_mask: the same for rows of encoder routers of an encoder-decoder model.
        sequences: rows of the batch: row `r` belongs to sequence `r // (rows / sequences)`.
        forward: how many forwards of the model came before this one, sampled or not.
        aux_loss: the balancing loss that the model returned, if it returned one.
    """

    layers: tuple[LayerRouting, ...]
    mask: Tensor | None
    encoder_mask: Tensor | None
    sequences: int
    forward: int
    aux_loss: Tensor | None = None


Consumer = Callable[[Routing], None]


class RouterTap:
    """The hooks on one model. Use through `tap_routers`.

    With `watching` (the monitor's) values are not checked, since a look at them waits for the device,
    and each `LayerRouting` also has `weights` and `attached`.

    Attributes:
        routers: the routers tapped.
        enabled: set False to let forwards pass unrecorded.
        latest: the last `Routing`, when no consumer was given.
    """

    def __init__(
        self,
        model: nn.Module,
        consumer: Consumer | None = None,
        *,
        every: int = 1,
        routers: list[Router] | None = None,
        watching: bool = False,
    ):
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        check_not_compiled(model)
        if routers is None:
            routers = [r for r in find_routers(model) if r.reached_by_text]
        if not routers:
            raise RoutingError(
                f"no router found in {type(model).__name__}: run `mfgjax-extract inspect` on the "
                "model, and add a rule to mfgjax_extract/families.py if it does have experts"
            )
        self.routers = routers
        self.enabled = True
        self.latest: Routing | None = None
        self._model = model
        self._consumer = consumer
        self._every = every
        self._watching = watching
        self._forwards = 0
        self._calls: dict[str, Calls] | None = None
        self._modes: dict[str, RecordCalls] = {}
        self._two_stacks = is_encoder_decoder(model)
        self._inputs = ForwardInputs({}, self._two_stacks)
        self._handles: list = []

    def __enter__(self) -> "RouterTap":
        self._handles = [
            self._model.register_forward_pre_hook(self._begin, with_kwargs=True, prepend=True),
            self._model.register_forward_hook(self._end, always_call=True),
        ]
        for router in self.routers:
            self._handles += self._hook(router)
        return self

    def __exit__(self, exc_type, *_exc) -> None:
        self.close()
        if exc_type is None and self._forwards == 0 and self.enabled:
            raise RoutingError(
                f"the tap on {type(self._model).__name__} saw no forward: another module was called "
                "(a compiled or wrapped copy, an inner model). Tap the module that you call"
            )

    def close(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._calls = None

    def _hook(self, router: Router) -> list:
        path = router.path

        def enter(_module, _args):
            if self._calls is None:
                self._refuse_stray(router)
                return
            calls = self._calls[path]
            calls.fired += 1
            mode = RecordCalls(router, calls)
            self._modes[path] = mode
            mode.__enter__()

        def leave(_module, _args, output):
            mode = self._modes.pop(path, None)
            if mode is not None:
                mode.__exit__(None, None, None)
                if self._calls is not None:
                    self._calls[path].output = output

        def receive(_module, args, kwargs):
            if self._calls is not None:
                values = [*args, *kwargs.values()]
                self._calls[path].received += [v for v in values if isinstance(v, Tensor)]

        handles = [
            router.scope.register_forward_pre_hook(enter),
            router.scope.register_forward_hook(leave, always_call=True),
        ]
        if router.experts is not None:
            handles.append(router.experts.register_forward_pre_hook(receive, with_kwargs=True))
        return handles

    def _refuse_stray(self, router: Router) -> None:
        recomputing = torch._C._current_graph_task_id() != -1  # inside backward
        if self.enabled and not recomputing and self._forwards == 0:
            raise RoutingError(
                f"{router.path} fired outside a forward of the tapped "
                f"{type(self._model).__name__}: tap the module that you call"
            )

    def _begin(self, module, args, kwargs) -> None:
        sampled = self.enabled and self._forwards % self._every == 0
        self._forwards += 1
        if sampled:
            kept = self._watching
            self._calls = {router.path: Calls(keep_graph=kept) for router in self.routers}
            self._inputs = ForwardInputs(named_inputs(module, args, kwargs), self._two_stacks)

    def _end(self, _module, _args, output) -> None:
        calls, self._calls = self._calls, None
        for mode in self._modes.values():  # a forward that raised inside a router
            mode.__exit__(None, None, None)
        self._modes = {}
        if calls is not None and output is not None:
            hand_over: Any = torch.compiler.disable(self._hand_over)
            hand_over(calls, getattr(output, "aux_loss", None))

    def _hand_over(self, calls: dict[str, Calls], aux_loss: object) -> None:
        routing = self._assemble(calls, aux_loss)
        if self._consumer is None:
            self.latest = routing
        else:
            self._consumer(routing)

    def _assemble(self, calls: dict[str, Calls], aux_loss: object) -> Routing:
        layers = []
        mask, encoder_mask = self._inputs.mask, self._inputs.encoder_mask
        for router in self.routers:
            rows = self._inputs.rows(router)
            kept = encoder_mask if router.in_encoder else mask
            checked = not self._watching
            layers.append(read_layer(router, calls[router.path], rows, kept, checked))
        check_rows([(layer.path, layer.logits.shape[0]) for layer in layers], self.routers)
        self._inputs, sequences = ForwardInputs({}, self._two_stacks), self._inputs.sequences
        loss = aux_loss.detach() if isinstance(aux_loss, Tensor) else None
        return Routing(tuple(layers), mask, encoder_mask, sequences, self._forwards - 1, loss)


def tap_routers(
    model: nn.Module,
    consumer: Consumer | None = None,
    *,
    every: int = 1,
    routers: list[Router] | None = None,
) -> RouterTap:
    """Tap every text router of `model`; use as a context manager.

    Args:
        model: the module whose forward you call. Compile it after, not before.
        consumer: called with a `Routing` at the end of each sampled forward. Its tensors are
            detached, own their memory and are never written again. Without a consumer the last
            one is kept in `tap.latest`.
        every: sample one forward in this many.
        routers: the routers to tap, from `find_routers`; by default all that text reaches.

    Raises:
        RoutingError: no router, a compiled model; and from the forward itself when what was
            recorded cannot be right (see `checks.py`).
    """
    return RouterTap(model, consumer, every=every, routers=routers)


def read_layer(
    router: Router,
    calls: Calls,
    rows: int | None,
    kept: Tensor | None = None,
    checked: bool = True,
) -> LayerRouting:
    """Turn the recorded calls of one router into logits and choices.

    Args:
        router: the router.
        calls: what was recorded of it.
        rows: tokens of the forward, None if its inputs do not say.
        kept: `[row]` bool, False on padding.
        checked: also look at values, which copies from the device.
    """
    logits, choices = calls.logits, None
    if logits is not None:
        if router.rule is not None and router.rule.assemble is not None:
            logits = router.rule.assemble(router.scope, logits)
        logits = logits.reshape(-1, logits.shape[-1])
        choices = chosen_experts(router, calls, logits.shape[0])
    check_layer(router, calls, logits, choices, rows)
    assert logits is not None and choices is not None
    if checked:
        check_values(router, logits, choices, kept)
    dispatched = None
    if router.rule is not None and router.rule.dispatched is not None:
        dispatched = router.rule.dispatched(calls.output, choices.to(torch.int64)).detach()
    ranked = None
    if calls.topk is not None and calls.topk_values is not None:
        ranked = (calls.topk, calls.topk_values)
    weights = combine_weights(calls, choices) if calls.keep_graph else None
    attached = None if router.rule is not None and router.rule.assemble else calls.attached
    choices = choices.to(torch.int32)
    return LayerRouting(
        router.path, logits, choices, dispatched, calls.scoring, ranked, weights, attached
    )
