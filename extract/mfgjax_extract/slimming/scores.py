"""How much each unit matters: the derivative of the loss with respect to a mask on it, and cheaper rules.

With a mask m_j on unit j before the map that reads it, `out = sum_j m_j h_j w_j`, so that dL/dm_j at
m = 1 is exactly `sum_i w_ij dL/dw_ij`: one backward pass to the weights of that map, and no hooks. It is
taken per text, because signed sums over texts cancel:

* `taylor`: mean of |dL/dm| over texts (first order);
* `fisher`: mean of its square (second order);
* `magnitude`: the norm of all weights of the unit;
* `activation`: mean |h_j| over the tokens that the expert serves;
* `random`: for comparison.

At the first stage the student *is* the teacher: a full divergence from it has no gradient there, and every
score would be zero. The loss must see the text itself (cross-entropy); one without gradient is refused.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mfgjax_extract.slimming.layout import UnitBlock
from mfgjax_extract.slimming.observe import observed_activation

SCORES = ("taylor", "fisher", "magnitude", "activation", "random")

NO_GRADIENT = 1e-7
"""Nats: a loss whose largest derivative over all units is below this says nothing of any of them."""

Loss = Callable[[nn.Module, Tensor], Tensor]
"""Maps a model and token ids `[text, token]` to the mean loss."""


@dataclass(frozen=True)
class Scores:
    """Scores of every block, with what they rest on.

    Attributes:
        values: per block `[expert, unit]`, or `[unit]`; on the CPU.
        unrouted: experts without any derivative, because no token whose prediction counts visits them;
            their scores are magnitudes.
        rare: experts that fewer than 4 texts reached: the order of their units is noisy.
        experts: how many experts there are.
    """

    values: list[Tensor]
    unrouted: int
    rare: int
    experts: int


def neuron_scores(
    model: nn.Module,
    blocks: Iterable[UnitBlock],
    batches: Iterable[Tensor],
    loss: Loss,
    method: str = "taylor",
    seed: int = 0,
) -> Scores:
    """Score the units of `blocks`.

    Args:
        model: in eval mode; its weights, gradients and mode are left as they are.
        blocks: from `plan_slimming` or `expert_blocks`.
        batches: token ids `[text, token]`; not read by `magnitude` and `random`.
        loss: read by `taylor` and `fisher`.
        method: one of `SCORES`.
        seed: of `random`.

    Raises:
        ValueError: an unknown method, no texts, or a loss that has no gradient at this model.
    """
    blocks = list(blocks)
    if method not in SCORES:
        raise ValueError(f"score {method!r}: one of {', '.join(SCORES)} was expected")
    experts = sum(block.experts or 0 for block in blocks)
    if method == "random":
        draw = torch.Generator().manual_seed(seed)
        shapes = [(b.units,) if b.experts is None else (b.experts, b.units) for b in blocks]
        return Scores([torch.rand(shape, generator=draw) for shape in shapes], 0, 0, experts)
    magnitudes = [_magnitude(model, block) for block in blocks]
    if method == "magnitude":
        return Scores(magnitudes, 0, 0, experts)
    if method == "activation":
        values, texts = observed_activation(model, blocks, batches)
    else:
        values, texts = _derivatives(model, blocks, batches, loss, 1 if method == "taylor" else 2)
    unrouted = rare = 0
    for value, seen, magnitude, block in zip(values, texts, magnitudes, blocks, strict=True):
        if block.experts is not None:
            value[seen == 0] = magnitude[seen == 0].to(value.dtype)
            unrouted += int((seen == 0).sum())
            rare += int(((seen > 0) & (seen < 4)).sum())
    return Scores(values, unrouted, rare, experts)


def unit_derivatives(
    gradients: list[Tensor], model: nn.Module, blocks: list[UnitBlock]
) -> list[Tensor]:
    """dL/dm per block, `[expert, unit]` or `[unit]`, from the gradients of the maps that read the units."""
    found = []
    for block, gradient in zip(blocks, gradients, strict=True):
        weight = model.get_parameter(block.output.name).detach()
        wide = torch.promote_types(weight.dtype, torch.float32)
        product, axis = block.output.split(weight.to(wide) * gradient.to(wide), block.units)
        found.append(_over_the_rest(product, axis, block, torch.sum))
    return found


def _derivatives(
    model, blocks, batches, loss: Loss, power: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Mean over texts of |dL/dm|^power, and how many texts reached each expert."""
    outputs = [model.get_parameter(block.output.name) for block in blocks]
    wanted = [output.requires_grad for output in outputs]
    totals: list[Tensor] | None = None
    seen: list[Tensor] = []
    texts, largest = 0, 0.0
    try:
        for output in outputs:
            output.requires_grad_(True)
        for batch in batches:
            for text in batch.split(1):
                value = loss(model, text)
                gradients = torch.autograd.grad(value, outputs, materialize_grads=True)
                moved = unit_derivatives(list(gradients), model, blocks)
                largest = max(largest, *(float(one.abs().max()) for one in moved))
                powers = [one.abs() ** power for one in moved]
                reached = [(one != 0).any(-1).long() for one in moved]
                totals = (
                    powers
                    if totals is None
                    else [a + b for a, b in zip(totals, powers, strict=True)]
                )
                seen = [a + b for a, b in zip(seen, reached, strict=True)] if seen else reached
                texts += 1
    finally:
        for output, was in zip(outputs, wanted, strict=True):
            output.requires_grad_(was)
    if totals is None:
        raise ValueError("no texts to score the neurons on")
    if not largest >= NO_GRADIENT:
        raise ValueError(
            f"the loss has no gradient at this model (largest derivative {largest:.1e}): a divergence from "
            "the teacher has none where the student still is the teacher. Score by cross-entropy"
        )
    return [(total / texts).cpu() for total in totals], [one.cpu() for one in seen]


def _magnitude(model: nn.Module, block: UnitBlock) -> Tensor:
    """Norm of all weights of each unit."""
    total: Tensor | None = None
    for part in block.parts:
        split, axis = part.split(model.get_parameter(part.name).detach().float() ** 2, block.units)
        if block.experts is not None:
            split = split[: block.experts]
        square = _over_the_rest(split, axis, block, torch.sum)
        total = square if total is None else total + square
    assert total is not None
    return total.sqrt().cpu()


def _over_the_rest(tensor: Tensor, axis: int, block: UnitBlock, reduce: Callable) -> Tensor:
    """Reduce every axis but those of the experts and the units."""
    kept = {axis} if block.experts is None else {0, axis}
    rest = [i for i in range(tensor.ndim) if i not in kept]
    return reduce(tensor, dim=rest)
