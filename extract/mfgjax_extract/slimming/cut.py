"""Cut the chosen units out of every tensor, and build the student that holds the rest."""

from typing import Any

import torch
from torch import Tensor, nn

from mfgjax_extract.slimming.layout import Part, UnitBlock
from mfgjax_extract.slimming.plan import SlimPlan


def choose_units(plan: SlimPlan, scores: list[Tensor]) -> list[Tensor]:
    """The units with the highest scores, in the order they had.

    Args:
        plan: from `plan_slimming`.
        scores: one per block, `[expert, unit]`, or `[unit]` where there are no experts.

    Returns:
        Indices per block, `[expert, kept]` or `[kept]`, ascending.
    """
    return [
        score.topk(units, dim=-1).indices.sort(dim=-1).values
        for score, units in zip(scores, plan.units, strict=True)
    ]


@torch.no_grad()
def slim(model: nn.Module, plan: SlimPlan, kept: list[Tensor]) -> Any:
    """The student: a new model of the same class, in eval mode; `model` stays as it is.

    Args:
        model: the one that was planned for.
        plan: from `plan_slimming`.
        kept: from `choose_units`.
    """
    state = dict(model.state_dict())
    for block, index in zip(plan.blocks, kept, strict=True):
        for part in block.parts:
            state[part.name] = _taken(state[part.name], part, block, index)
    return rebuilt(model, plan.config, state)


def rebuilt(model: nn.Module, config: Any, state: dict[str, Tensor]) -> Any:
    """A model of the class of `model` from another configuration, with the tensors of `state`.

    Tensors keep their types; buffers that are not saved come from `model` where they fit.
    """
    kind: Any = type(model)
    student = kind._from_config(config, dtype=getattr(model, "dtype", None))
    own = {name: tensor.clone() for name, tensor in state.items()}
    student.load_state_dict(own, assign=True)
    student.tie_weights()
    buffers = dict(model.named_buffers())
    for name, buffer in student.named_buffers():
        if name not in own and name in buffers and buffers[name].shape == buffer.shape:
            owner, _, last = name.rpartition(".")
            setattr(student.get_submodule(owner), last, buffers[name].clone())
    if getattr(model, "generation_config", None) is not None:
        student.generation_config = model.generation_config
    return student.to(next(model.parameters()).device).eval()


def _taken(tensor: Tensor, part: Part, block: UnitBlock, index: Tensor) -> Tensor:
    split, axis = part.split(tensor, block.units)
    index = index.to(tensor.device)
    if block.experts is None:
        return split.index_select(axis, index).flatten(part.axis, part.axis + 2)
    if len(split) > block.experts:  # rows of experts that only pass the token on, never read
        spare = torch.arange(index.shape[1], device=index.device)
        index = torch.cat([index, spare.expand(len(split) - block.experts, -1)])
    shape = [1] * split.ndim
    shape[0], shape[axis] = index.shape
    taken = split.take_along_dim(index.reshape(shape), dim=axis)
    return taken.flatten(part.axis, part.axis + 2)
