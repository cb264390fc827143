"""What a router adds its selection bias to: seen in one forward, never guessed.

The last top-k over all experts ranks `score + bias`. Its values minus a candidate score must be one
number per expert, the bias, whatever the token; for a wrong score they are not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mfgjax_extract.routers import Router
from mfgjax_extract.settings import selection_bias
from mfgjax_extract.tap import LayerRouting

SCORES = {
    "logits": lambda z: z,
    "sigmoid": torch.sigmoid,
    "softmax": lambda z: z.softmax(-1),
    "sqrtsoftplus": lambda z: torch.nn.functional.softplus(z).sqrt(),
}
RELATIVE_SLOPES = {
    "sigmoid": lambda z: torch.sigmoid(-z),
    "softmax": torch.ones_like,
    "sqrtsoftplus": lambda z: torch.sigmoid(z) / (2 * torch.nn.functional.softplus(z)),
}
"""d log(score) / d logit, the normaliser of the softmax held: it is common to the token's experts."""
_GROUP_COUNTS = ("n_group", "num_group", "num_expert_group", "n_groups", "num_groups")
_GROUP_LIMITS = ("topk_group", "top_k_group", "topk_groups", "num_limited_groups")
_FEWEST_REPEATS = 8
"""Of an expert, over tokens, before constancy alone is evidence."""


@dataclass(frozen=True)
class Selection:
    """How one router ranks experts.

    Attributes:
        function: one of `SCORES`: what is ranked.
        unit: unit roundoff of the type in which it is ranked.
        groups: `(groups, groups chosen)` where only experts of chosen groups compare.
        biased: whether a bias is added to it. Without one the order of the logits decides, and the
            price that explains the choices is sought in logits, whatever the function.
    """

    function: str
    unit: float
    groups: tuple[int, int] | None
    biased: bool

    @property
    def score(self) -> str:
        """What the price is added to."""
        return self.function if self.biased else "logits"


def selection_of(router: Router, layer: LayerRouting, kept: Tensor) -> Selection | None:
    """The rule of one router, None where what was recorded does not show it.

    Args:
        router: the router.
        layer: what it did.
        kept: `[row]` indices of the rows that are no padding.
    """
    groups = expert_groups(router)
    bias = selection_bias(router)
    logits = layer.logits[kept]
    if layer.ranked is None:
        chosen = layer.choices[kept].long()
        plain = bias is None and groups is None and _ranks(logits, chosen)
        return (
            Selection("logits", torch.finfo(logits.dtype).eps / 2, None, False) if plain else None
        )
    indices, values = (t.reshape(layer.logits.shape[0], -1)[kept] for t in layer.ranked)
    unit = torch.finfo(values.dtype).eps / 2
    function = _function_of(logits, indices, values.double(), bias, unit)
    if function is None:
        return None
    plain = bias is None and _explains(
        SCORES[function](logits.double()), indices, values, None, unit
    )
    return Selection(function, unit, groups, biased=not plain)


def expert_groups(router: Router) -> tuple[int, int] | None:
    """`(groups, groups chosen)` of a group-limited router, as its modules state them."""
    if getattr(router.module, "topk_method", None) == "greedy":  # groups are stated, and not used
        return None
    for owner in (router.module, router.block, getattr(router.module, "config", None)):
        count = next((getattr(owner, n) for n in _GROUP_COUNTS if hasattr(owner, n)), None)
        limit = next((getattr(owner, n) for n in _GROUP_LIMITS if hasattr(owner, n)), None)
        if isinstance(count, int) and isinstance(limit, int) and 0 < limit < count:
            return (count, limit)
    return None


def _function_of(logits, indices, values, bias, unit) -> str | None:
    scores = {name: score(logits.double()) for name, score in SCORES.items()}
    for known in (bias, None):  # None: as if the bias were 0
        for name, score in scores.items():
            if _explains(score, indices, values, known, unit):
                return name
    for name, score in scores.items():
        if _constant_by_expert(values - score.gather(1, indices), indices, score, unit):
            return name
    return None


def _tolerance(score: Tensor, offset: Tensor, unit: float) -> Tensor:
    """Roundings of a score function in float32 or in the type of the sum, and of the sum."""
    return 16 * max(unit, 2.0**-24) * (1 + score.abs() + offset.abs())


def _explains(score, indices, values, bias, unit) -> bool:
    offset = torch.zeros(score.shape[-1]) if bias is None else bias
    offset = offset.to(score.device, torch.float64)[indices]
    chosen = score.gather(1, indices)
    error = (values.double() - chosen - offset).abs()
    return bool((error <= _tolerance(chosen, offset, unit)).all())


def _constant_by_expert(offset: Tensor, indices: Tensor, score: Tensor, unit: float) -> bool:
    experts = score.shape[-1]
    flat, at = offset.flatten(), indices.flatten()
    count = torch.bincount(at, minlength=experts)
    if int((count - 1).clamp(min=0).sum()) < _FEWEST_REPEATS or not bool(flat.isfinite().all()):
        return False
    mean = torch.zeros_like(score[0]).index_add_(0, at, flat) / count.clamp(min=1)
    error = (flat - mean[at]).abs()
    return bool((error <= 2 * _tolerance(score.gather(1, indices).flatten(), flat, unit)).all())


def _ranks(logits: Tensor, choices: Tensor) -> bool:
    """Whether every token's choices are the largest of its logits."""
    lowest = logits.gather(1, choices).amin(1)
    others = logits.scatter(1, choices, -torch.inf).amax(1)
    return bool((lowest >= others).all())
