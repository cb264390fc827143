"""Per-text sums of one batch: what the statistics form of a trace stores."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerSums:
    """Sums over the tokens of each text, one router, all `[text, expert]`.

    Logits and probabilities are summed in float64 where the device has it.
    """

    logit_sum: Tensor
    centred_square_sum: Tensor
    probability_sum: Tensor
    dispatch_count: Tensor
    dispatched_count: Tensor | None


def sum_by_text(
    logits: Tensor, choices: Tensor, text: Tensor, texts: int, dispatched: Tensor | None = None
) -> LayerSums:
    """Sum one router's batch by text.

    Args:
        logits: `[token, expert]` raw logits; padding removed.
        choices: `[token, top_k]` chosen experts.
        text: `[token]` int64 text number within the batch.
        texts: number of texts in the batch.
        dispatched: `[token, top_k]` bool, which choices were served.
    """
    experts = logits.shape[-1]
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    z = logits.to(wide)

    def by_text(values: Tensor) -> Tensor:
        return torch.zeros(texts, experts, dtype=wide, device=z.device).index_add_(0, text, values)

    flat = (text[:, None] * experts + choices).flatten()

    def count(indices: Tensor) -> Tensor:
        return torch.bincount(indices, minlength=texts * experts).reshape(texts, experts)

    return LayerSums(
        logit_sum=by_text(z),
        centred_square_sum=by_text((z - z.mean(-1, keepdim=True)).square()),
        probability_sum=by_text(z.softmax(-1)),
        dispatch_count=count(flat),
        dispatched_count=None if dispatched is None else count(flat[dispatched.flatten()]),
    )
