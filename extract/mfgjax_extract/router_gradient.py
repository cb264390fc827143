"""Which balancing acts, read off the gradient at the logits of experts that were not chosen.

The task's gradient at such a logit is `w_tj c_t`, with w the derivative of the score and one number
per token: what differs between unchosen experts of a token is the auxiliary loss alone. The sums are
those of `mfgjax.monitor.sums.GradientSums`, where the derivation is.
"""

import torch
from torch import Tensor

TERMS = (
    *("terms", "square", "own", "pooled", "both"),
    *("own_gradient", "pooled_gradient", "raw", "raw_gradient"),
)


def gradient_sums(
    gradient: Tensor,
    logits: Tensor,
    choices: Tensor,
    kept: Tensor,
    own: Tensor,
    pooled: Tensor,
    *,
    sigmoid: bool,
) -> Tensor:
    """Sums named by `TERMS`, on the device.

    Args:
        gradient: `[token, expert]` of the loss at the logits, as wide as `logits`.
        logits: `[token, expert]`.
        choices: `[token, top_k]`.
        kept: `[token]` False on padding.
        own: `[expert]` load of this layer in this forward, summing to 1.
        pooled: `[expert]` the same of all layers together.
        sigmoid: whether the score is a sigmoid.
    """
    if sigmoid:
        score = logits.sigmoid()
        slope = score * (1 - score) / score.sum(-1, keepdim=True)
    else:
        slope = logits.softmax(-1)
    unchosen = torch.ones_like(logits, dtype=torch.bool).scatter_(-1, choices, False)
    unchosen &= kept[:, None]
    zero = torch.zeros_like(logits)
    w = torch.where(unchosen, slope, zero)
    scale = logits.shape[-1] / kept.sum().clamp(min=1)  # M / T
    norm = w.square().sum(-1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny)

    def left(values: Tensor) -> Tensor:
        """What the fit of one number per token leaves."""
        return values - w * ((w * values).sum(-1, keepdim=True) / norm)

    g = left(torch.where(unchosen, gradient, zero))
    x, y = left(w * (scale * own)), left(w * (scale * pooled))
    raw = left(torch.where(unchosen, (scale * own).expand_as(w), zero))
    terms = unchosen.sum() - kept.sum()
    sums = [terms, g * g, x * x, y * y, x * y, x * g, y * g, raw * raw, raw * g]
    return torch.stack([s.sum().to(w.dtype) for s in sums])
