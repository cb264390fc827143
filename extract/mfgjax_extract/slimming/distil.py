"""Train a student on its teacher's predictions, so that a killed run goes on where it was.

Batches are a function of the step alone. Input jitter (Phi) is off: it hides which expert was meant.
"""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mfgjax_extract.routers import find_routers
from mfgjax_extract.slimming.loss import Target, divergence, next_token_loss, with_balance

Teach = Callable[[Tensor], Target]
"""Maps token ids `[text, token]` to what the teacher predicts."""


@dataclass(frozen=True)
class Distillation:
    """How a student is trained.

    Attributes:
        steps: of AdamW.
        peak_lr: after a linear warm-up of `warmup` steps; then a cosine to a tenth.
        text_weight: of the cross-entropy of the text.
        teacher_weight: of the divergence from the teacher.
        routers_only: train the routers, and nothing else.
        warmup: steps; at most a tenth of all.
        weight_decay: of matrices.
        save_every: steps between states from which a killed run goes on.
    """

    steps: int
    peak_lr: float = 1e-4
    text_weight: float = 1.0
    teacher_weight: float = 1.0
    routers_only: bool = False
    warmup: int = 100
    weight_decay: float = 0.1
    save_every: int = 200


def distil(
    student: nn.Module,
    teach: Teach | None,
    batch_of: Callable[[int], Tensor],
    how: Distillation,
    state: Path | None = None,
    report: Callable[[int, float], None] = lambda _step, _loss: None,
) -> None:
    """Train `student` in place; it is in eval mode afterwards.

    Args:
        student: a causal language model.
        teach: of the teacher; None to learn from the text alone.
        batch_of: token ids `[text, token]` of a step.
        how: settings.
        state: file that a killed run goes on from; removed at the end.
        report: called after each step with the step (from 1) and the training loss.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    if how.routers_only:
        chosen: Iterable[nn.Parameter] = [
            p for r in find_routers(student) for p in r.module.parameters()
        ]
    else:
        chosen = student.parameters()
    trained = list(chosen)
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": how.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=how.peak_lr, betas=(0.9, 0.95))
    first = _restored(state, student, optimizer)
    _without_jitter(student.train())
    for step in range(first, how.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, how)
        ids = batch_of(step)
        logits, loss = with_balance(student, ids)
        if how.text_weight:
            loss = loss + how.text_weight * next_token_loss(logits, ids)
        if teach is not None and how.teacher_weight:
            loss = loss + how.teacher_weight * divergence(logits, teach(ids))
        if not loss.isfinite():
            raise FloatingPointError(f"step {step}: the loss is {float(loss)}: lower --lr")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        student.zero_grad(set_to_none=True)
        if state is not None and (step + 1) % how.save_every == 0 and step + 1 < how.steps:
            _save(state, student, optimizer, step + 1)
        report(step + 1, float(loss.detach()))
    student.eval()
    if state is not None:
        state.unlink(missing_ok=True)


def learning_rate(step: int, how: Distillation) -> float:
    """Linear warm-up, then a cosine to a tenth of the peak."""
    warmup = min(how.warmup, how.steps // 10)
    if step < warmup:
        return how.peak_lr * (step + 1) / warmup
    done = (step - warmup) / max(1, how.steps - warmup)
    return how.peak_lr * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def windows_of(ids: Tensor, step: int, seed: int, texts: int, length: int) -> Tensor:
    """`texts` windows of `length` tokens out of one row of them: a function of `(seed, step)` alone."""
    draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
    starts = torch.randint(len(ids) - length + 1, (texts,), generator=draw).tolist()
    return torch.stack([ids[s : s + length] for s in starts])


def _without_jitter(student: nn.Module) -> None:
    for module in student.modules():
        if getattr(module, "input_jitter_noise", 0):
            setattr(module, "input_jitter_noise", 0.0)  # noqa: B010


def _save(state: Path, student: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    partial = state.with_name(state.name + ".partial")
    found: dict[str, Any] = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(found | {"step": step}, partial)
    os.replace(partial, state)


def _restored(state: Path | None, student: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    if state is None or not state.exists():
        return 0
    found = torch.load(state, weights_only=True)
    student.load_state_dict(found["student"])
    optimizer.load_state_dict(found["optimizer"])
    return int(found["step"])
