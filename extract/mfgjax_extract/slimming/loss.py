"""What a student learns from: its teacher's top logits, the text, and its own balancing loss.

The divergence from the teacher is over its k most likely tokens and *one bucket for all others*:

    KL = sum_(i in top k) p_i log(p_i / q_i) + p_rest log(p_rest / q_rest)

It is zero exactly where student and teacher agree on these. The two shorter forms are not: renormalised
over the k, the mass of the rest is free; left raw, the loss pulls that mass down.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfgjax_extract.settings import aux_loss_coef


@dataclass(frozen=True)
class Target:
    """What is kept of a teacher's prediction.

    Attributes:
        index: its most likely tokens `[text, token, k]`.
        log_top: their log probabilities.
        log_rest: log probability of all other tokens together, `[text, token]`.
    """

    index: Tensor
    log_top: Tensor
    log_rest: Tensor


def target_of(logits: Tensor, top: int) -> Target:
    """The teacher's `top` most likely tokens, from its logits `[text, token, vocabulary]`."""
    index = logits.topk(min(top, logits.shape[-1]), dim=-1).indices
    return Target(index, *_bucketed(logits, index))


def divergence(logits: Tensor, target: Target) -> Tensor:
    """Mean KL of the student's logits from the target, in nats per token; at least 0."""
    log_top, log_rest = _bucketed(logits, target.index)
    top = (target.log_top.exp() * (target.log_top - log_top)).sum(-1)
    p = target.log_rest.exp()
    rest = torch.where(p > 0, p * (target.log_rest - log_rest), 0.0)
    return (top + rest).mean()


def _bucketed(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    log = logits.float().log_softmax(-1)
    if index.shape[-1] == log.shape[-1]:  # nothing is left over
        return log.gather(-1, index), torch.full_like(log[..., 0], -torch.inf)
    return log.gather(-1, index), log.scatter(-1, index, -torch.inf).logsumexp(-1)


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of the next token, in nats."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def cross_entropy(model: Any, ids: Tensor) -> Tensor:
    """What scores are taken from: the text itself (see `scores.py`)."""
    return next_token_loss(model(input_ids=ids, use_cache=False).logits, ids)


def with_balance(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the family's own balancing loss times its coefficient (0 where it has none)."""
    coefficient = aux_loss_coef(model.config)
    if not coefficient:
        return model(input_ids=ids, use_cache=False).logits, torch.zeros(())
    result = model(input_ids=ids, use_cache=False, output_router_logits=True)
    auxiliary = getattr(result, "aux_loss", None)
    return result.logits, torch.zeros(()) if auxiliary is None else coefficient * auxiliary


@torch.no_grad()
def held_out_loss(model: nn.Module, windows: Tensor, batch: int = 32) -> float:
    """Mean next-token loss over windows `[window, token]`, in evaluation mode."""
    was = model.training
    model.eval()
    losses = [float(cross_entropy(model, part)) * len(part) for part in windows.split(batch)]
    model.train(was)
    return sum(losses) / len(windows)
