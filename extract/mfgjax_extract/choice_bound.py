"""What choices say of the price: the largest lower bound of every bias difference.

A token that chose i and not j says `bias_i + score_i >= bias_j + score_j`. Per block of texts the
largest of these over tokens is kept, `[block, layer, i, j]`; blocks merge by maximum. The bounds are
lowered by every rounding that the router may have made, so they stay true.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mfgjax_extract.selection import RELATIVE_SLOPES, SCORES, Selection
from mfgjax_extract.sweep_settings import MOST_BLOCKS
from mfgjax_extract.tap import LayerRouting

MOST_BYTES = 32 * 2**20
"""Of the bounds of one file, but for the first block."""
_FLOAT32_UNIT = 2.0**-24


def block_count(texts: int, layers: int, experts: int, most: int = MOST_BLOCKS) -> int:
    """Blocks of texts to keep bounds for: `most`, fewer where they would not fit `MOST_BYTES`.

    With 16 layers of 64 experts 8 blocks take 2 MiB; with 58 layers of 256 experts two take 29 MiB.
    """
    if most == 0:
        return 0
    fit = MOST_BYTES // (4 * layers * experts * experts)
    return max(1, min(most, fit, texts))


def choice_bound(
    logits: Tensor, choices: Tensor, block: Tensor, blocks: int, selection: Selection
) -> Tensor:
    """Lower bounds `[block, expert, expert]` of `bias_i - bias_j`, float64; -inf where no token tells.

    Work grows like tokens x top_k x experts; nothing of size tokens x experts x experts is made.

    Args:
        logits: `[token, expert]`, as the router computed them; padding removed.
        choices: `[token, top_k]` chosen experts.
        block: `[token]` int64 block of the token's text.
        blocks: how many.
        selection: how the router ranks experts.
    """
    experts = logits.shape[-1]
    choices = choices.long()
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    logits = logits.to(wide)
    score = SCORES[selection.score](logits)
    error = _error(logits, score, selection)
    high = (score + error).gather(1, choices)
    low = (score - error).scatter(1, choices, -torch.inf)
    if selection.groups is not None:
        count, limit = selection.groups
        used = torch.zeros(len(logits), count, dtype=torch.bool, device=logits.device)
        used.scatter_(1, choices // (experts // count), True)
        low = low.masked_fill(~used.repeat_interleave(experts // count, 1), -torch.inf)
        high = high.masked_fill(used.sum(1, keepdim=True) > limit, torch.inf)
    key = (block[:, None] * experts + choices).flatten()
    order = key.argsort()
    sizes = torch.bincount(key, minlength=blocks * experts).tolist()
    found = torch.full((blocks * experts, experts), -torch.inf, dtype=wide, device=logits.device)
    flat, top_k = high.flatten(), choices.shape[1]
    for row, members in enumerate(order.split(sizes)):
        if len(members):
            found[row] = (low[members // top_k] - flat[members, None]).amax(0)
    return found.reshape(blocks, experts, experts)


def _error(logits: Tensor, score: Tensor, selection: Selection) -> Tensor:
    """Most that what the router ranked can be off; the rounding that grows with the bias excluded."""
    if selection.function == "logits":
        return selection.unit * score.abs() if selection.biased else torch.zeros_like(score)
    steps = torch.full_like(score, 8.0)
    if selection.function == "softmax":  # the sum over experts, and the argument of the exponential
        steps = 16 + score.shape[-1] + (logits.amax(-1, keepdim=True) - logits)
    relative = steps * _FLOAT32_UNIT + 2 * selection.unit
    if selection.biased:
        return relative * score.abs()
    return relative / RELATIVE_SLOPES[selection.function](logits)


def raise_bounds(
    stored: np.ndarray,
    layers: Sequence[LayerRouting],
    selections: Sequence[Selection | None],
    rows: Tensor,
    block: Tensor,
) -> None:
    """Take a batch into the bounds `[block, layer, expert, expert]` of a file, in place.

    Args:
        stored: the bounds so far.
        layers: what the routers did.
        selections: their rules; a layer without one keeps its bounds.
        rows: the rows that are no padding.
        block: `[row]` of each of them.
    """
    first, last = int(block.min()), int(block.max())
    for layer, (x, rule) in enumerate(zip(layers, selections, strict=True)):
        if rule is not None:
            found = choice_bound(
                x.logits[rows], x.choices[rows], block - first, last - first + 1, rule
            )
            part = stored[first : last + 1, layer]
            np.maximum(part, round_down(found), out=part)


def round_down(values: Tensor) -> np.ndarray:
    """float32 of `values`, never above them."""
    exact = values.cpu().double().numpy()
    stored = exact.astype(np.float32)
    return np.where(stored > exact, np.nextafter(stored, np.float32(-np.inf)), stored)
