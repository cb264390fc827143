"""Refuse routing that cannot be right, naming the module and what to do."""

import torch
from torch import Tensor, nn

from mfgjax_extract.capture import Calls
from mfgjax_extract.routers import Router


class RoutingError(RuntimeError):
    """What was recorded from a model is not its routing."""


def check_not_compiled(model: nn.Module) -> None:
    """Raise if `model` or a part of it was compiled: hooks added later never fire."""
    for path, module in model.named_modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise RoutingError(
                f"{path or type(model).__name__} was compiled before the tap, and compiled code "
                "does not see hooks added later: tap first and compile inside the `with`, or tap "
                "the uncompiled module (`model._orig_mod`)"
            )


def check_layer(
    router: Router,
    calls: Calls,
    logits: Tensor | None,
    choices: Tensor | None,
    rows: int | None,
) -> None:
    """Raise unless one router fired once and left logits and choices of the right shapes.

    Args:
        router: the router.
        calls: what was recorded of it.
        logits: `[row, expert]`, None if no linear map was seen.
        choices: `[row, top_k]`, None if no choice was seen.
        rows: tokens of the forward, None if its inputs do not say.
    """
    where = router.path
    if calls.fired == 0:
        raise RoutingError(
            f"{where} ({type(router.module).__name__}) never fired: the forward goes around it "
            "(a fused kernel, a compiled or skipped layer, another modality). Load the model with "
            "the plain implementation (experts_implementation='eager'), or leave the router out"
        )
    if calls.fired > 1:
        raise RoutingError(
            f"{where} fired {calls.fired} times in one forward: a layer shared between depths or a "
            "forward inside a forward. Tap the module that runs once per token"
        )
    if logits is None:
        raise RoutingError(
            f"{where} ({type(router.module).__name__}): no linear map with its weight "
            f"{tuple(router.weight.shape)} was seen. A fused or quantised kernel replaces it: load "
            "the model unquantised, or add a rule to mfgjax_extract/families.py"
        )
    if logits.shape[-1] != router.num_experts:
        raise RoutingError(
            f"{where}: {logits.shape[-1]} logits per token for {router.num_experts} experts: "
            "add a rule to mfgjax_extract/families.py"
        )
    if rows is not None and logits.shape[0] != rows:
        raise RoutingError(
            f"{where} routed {logits.shape[0]} rows, the forward had {rows} tokens: the model "
            "drops or repeats tokens before this layer. Run it without packing or caching"
        )
    if choices is None:
        raise RoutingError(
            f"{where} ({type(router.module).__name__}): no expert indices were seen, neither at "
            "the experts nor in a top-k: add a rule to mfgjax_extract/families.py"
        )


def check_values(router: Router, logits: Tensor, choices: Tensor, kept: Tensor | None) -> None:
    """Raise unless logits are finite and no probabilities, and choices are experts.

    Args:
        router: the router.
        logits: `[row, expert]`.
        choices: `[row, top_k]`.
        kept: `[row]` bool, False on padding: there a model may compute anything, NaN too.
    """
    where = router.path
    if kept is not None and kept.shape[0] == logits.shape[0]:
        logits, choices = logits[kept], choices[kept]
    if not bool(torch.isfinite(logits).all()):
        row, expert = torch.nonzero(~torch.isfinite(logits))[0].tolist()
        raise RoutingError(
            f"{where}: logit {float(logits[row, expert])} at row {row}, expert {expert}: the model "
            "overflows here; load it in float32 or bfloat16"
        )
    if looks_like_probabilities(logits):
        raise RoutingError(
            f"{where}: every row lies in [0, 1] and sums to 1: these are probabilities, not "
            "logits. The router's linear map was not the one recorded; add a rule to "
            "mfgjax_extract/families.py"
        )
    if choices.shape[0] == 0:
        return
    low, high = int(choices.min()), int(choices.max())
    if low < 0 or high >= router.num_experts:
        raise RoutingError(
            f"{where}: expert index {low if low < 0 else high} outside "
            f"0..{router.num_experts - 1}: the indices recorded are not this router's choice"
        )


def looks_like_probabilities(logits: Tensor) -> bool:
    """Whether every row lies in [0, 1] and sums to 1: a softmax was recorded, not logits."""
    if logits.numel() == 0 or logits.shape[-1] < 2 or bool((logits < 0).any()):
        return False
    total = logits.float().sum(-1)
    return bool(((total - 1).abs() < 1e-2).all())


def check_rows(counts: list[tuple[str, int]], routers: list[Router]) -> None:
    """Raise unless all routers of one stack saw the same number of tokens."""
    for encoder in (False, True):
        stack = [c for c, r in zip(counts, routers, strict=True) if r.in_encoder == encoder]
        if len({rows for _, rows in stack}) > 1:
            first = stack[0]
            other = next(c for c in stack if c[1] != first[1])
            raise RoutingError(
                f"{other[0]} routed {other[1]} rows, {first[0]} routed {first[1]}: the model "
                "drops or repeats tokens between these layers"
            )
