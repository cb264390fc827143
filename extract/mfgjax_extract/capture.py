"""Record what one router computes during one forward, without computing it again.

A `TorchFunctionMode` is active while the router's `forward` runs and notes two kinds of calls:
linear maps with the router's weight (their output is the raw logit, in the dtype the model
really used, before softmax, softcap, bias correction, noise or grouping) and top-k or argmax
over all experts. Choices recomputed afterwards would be wrong for 2.4% of tokens in bf16
(ties and rounding) and for nearly all tokens with a selection bias or expert groups.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mfgjax_extract.routers import Router

_LINEAR = {
    nn.functional.linear,
    torch.matmul,
    torch.mm,
    torch.addmm,
    torch.einsum,
    Tensor.matmul,
    Tensor.mm,
    Tensor.addmm,
    Tensor.__matmul__,
}
_TOPK = {torch.topk, Tensor.topk}
_ARGMAX = {torch.argmax, Tensor.argmax}
_MAX = {torch.max, Tensor.max}
"""With a dimension these also return where the maximum is."""
_SCORES = {
    torch.softmax: "softmax",
    nn.functional.softmax: "softmax",
    Tensor.softmax: "softmax",
    torch.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    nn.functional.sigmoid: "sigmoid",
    nn.functional.softplus: "softplus",
}


@dataclass
class Calls:
    """What happened inside one router during one forward.

    Attributes:
        logits: output of the linear map, a copy (later in-place noise does not reach it).
        by_weight: whether that call used the router's own weight, not a cast copy of it.
        topk: indices of the last top-k over all experts.
        topk_values: what it ranked them by.
        argmax: indices of every argmax (or maximum) over all experts, in order.
        received: integer tensors that the experts were called with.
        output: what the router returned.
        fired: forwards of the router.
        scoring: the function applied to the logits, "softmax-after-topk" when it came after the
            choice; None if none was seen.
        keep_graph: whether to keep `attached`.
        attached: output of the linear map itself, for a hook on its gradient.
    """

    logits: Tensor | None = None
    by_weight: bool = False
    topk: Tensor | None = None
    topk_values: Tensor | None = None
    argmax: list[Tensor] = field(default_factory=list)
    received: list[Tensor] = field(default_factory=list)
    output: Any = None
    fired: int = 0
    scoring: str | None = None
    keep_graph: bool = False
    attached: Tensor | None = None


class RecordCalls(TorchFunctionMode):
    """Notes the linear map and the selection of one router in `calls`."""

    def __init__(self, router: Router, calls: Calls):
        super().__init__()
        self._weight = router.weight
        self._shapes = (tuple(router.weight.shape), tuple(reversed(router.weight.shape)))
        self._outputs = int(router.weight.shape[0])
        self._experts = router.num_experts
        self._calls = calls

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in _LINEAR:
            self._note_linear(args, out)
        elif func in _TOPK:
            if args[0].shape[-1] == self._experts:
                self._calls.topk = out[1].detach().clone()
                self._calls.topk_values = out[0].detach().clone()
        elif func in _SCORES:
            if self._calls.scoring is None:
                after = "-after-topk" if self._calls.topk is not None else ""
                self._calls.scoring = _SCORES[func] + after
        elif func in _MAX:
            if isinstance(out, tuple) and args[0].shape[-1] == self._experts:
                self._calls.argmax.append(out[1].detach().clone())
        elif func in _ARGMAX and isinstance(out, Tensor) and args[0].shape[-1] == self._experts:
            self._calls.argmax.append(out.detach().clone())
        return out

    def _note_linear(self, args: tuple, out: Tensor) -> None:
        calls = self._calls
        if calls.by_weight or out.shape[-1] != self._outputs:
            return
        weights = [a for a in args if isinstance(a, Tensor) and tuple(a.shape) in self._shapes]
        if not weights:
            return
        own = any(w.data_ptr() == self._weight.data_ptr() for w in weights)
        if own or calls.logits is None:
            calls.logits = out.detach().clone()
            calls.by_weight = own
            wanted = calls.keep_graph and out.requires_grad and not torch.compiler.is_compiling()
            calls.attached = out if wanted else None


def integer_matrices(values: tuple | list, rows: int, below: int) -> list[Tensor]:
    """The tensors among `values` that can be expert indices: integers, `rows` x at most `below`."""
    return [
        v
        for v in values
        if isinstance(v, Tensor)
        and v.ndim >= 2
        and not v.is_floating_point()
        and v.dtype != torch.bool
        and v.numel() == rows * v.shape[-1]
        and v.shape[-1] <= below
    ]


def chosen_experts(router: Router, calls: Calls, rows: int) -> Tensor | None:
    """The indices `[row, top_k]` that the model used, or None if nothing recorded shows them.

    In order of trust: what the experts received, what the router returned, the last top-k over
    all experts, the argmaxes over all experts.
    """
    source = router.rule.choices_from if router.rule else "experts"
    if source == "experts":
        returned = calls.output if isinstance(calls.output, tuple | list) else (calls.output,)
        for values in (calls.received, returned):
            candidates = integer_matrices(values, rows, router.num_experts)
            if candidates:
                return candidates[0].detach().reshape(rows, -1)
    if source != "argmax" and calls.topk is not None and calls.topk.numel() % rows == 0:
        return calls.topk.reshape(rows, -1)
    if router.rule is not None and router.rule.evaluation_only and router.scope.training:
        return None
    firsts = [a.reshape(rows) for a in calls.argmax if a.numel() == rows]
    firsts = firsts[: router.rule.argmaxes if router.rule else None]
    return torch.stack(firsts, dim=-1) if firsts else None


def combine_weights(calls: Calls, choices: Tensor) -> Tensor | None:
    """What each chosen expert's output is weighed with, `[row, top_k]`; None if nothing shows it."""
    returned = calls.output if isinstance(calls.output, tuple | list) else (calls.output,)
    for value in (*calls.received, *returned):
        if (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and value.ndim >= 2
            and value.shape[-1] == choices.shape[-1]
            and value.numel() == choices.numel()
        ):
            return value.detach().reshape(choices.shape)
    return None
