"""What a smaller width means for a model: the setting that states it, and all that it cuts.

The setting is found by trying: the model is built without memory (on the meta device) with one number of
its configuration changed, and the shapes are compared. So a student is always a model that its own class
builds from its own configuration, and stock `from_pretrained` loads.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mfgjax_extract.settings import text_config
from mfgjax_extract.slimming.layout import Part, UnitBlock, expert_blocks, fewer_heads

Shapes = Mapping[str, tuple[int, ...]]

ROW_BYTES = 16
"""Grouped matrix multiplication of torch wants rows of weights to start at multiples of this."""


@dataclass(frozen=True)
class SlimPlan:
    """What will be cut.

    Attributes:
        config: of the student.
        blocks: the units to choose from.
        units: how many of each block are kept (of each expert).
        field: the setting that states the experts' width, None if it stays.
    """

    config: Any
    blocks: tuple[UnitBlock, ...]
    units: tuple[int, ...]
    field: str | None

    @property
    def tied(self) -> list[UnitBlock]:
        """Blocks that are no routed experts, cut because the same setting states their width."""
        return [block for block in self.blocks if block.kind == "mlp"]


def usable_width(width: int, dtype: torch.dtype) -> int:
    """`width` rounded up to what grouped kernels take: 4 neurons in float32, 8 in 16 bits."""
    step = ROW_BYTES // dtype.itemsize
    return -(-width // step) * step


def plan_slimming(
    model: nn.Module, *, width: int | None = None, head_groups: int | None = None
) -> SlimPlan:
    """Plan a student of `width` neurons per expert and `head_groups` attention groups per layer.

    Args:
        model: a transformers model.
        width: neurons kept of each expert; None for all.
        head_groups: key-value heads kept, each with its query heads; None for all.

    Raises:
        ValueError: nothing to cut, more than there is, or a model whose parts cannot be cut so.
    """
    if width is None and head_groups is None:
        raise ValueError("nothing to slim: give a width, a number of head groups, or both")
    config: Any = copy.deepcopy(model.config)
    blocks, units, field = [], [], None
    if width is not None:
        experts = expert_blocks(model)
        field, config, after = _narrower(model, config, experts, width)
        tied = _tied_mlps(model, after, experts)
        blocks += [*experts, *tied]
        units += [width] * len(experts)
        units += [after[b.output.name][b.output.axis] for b in tied]
    if head_groups is not None:
        config, heads = fewer_heads(model, config, head_groups)
        blocks += heads
        units += [head_groups] * len(heads)
    wanted = dict(shapes_of(model))
    for block, count in zip(blocks, units, strict=True):
        for part in block.parts:
            wanted[part.name] = _cut(wanted[part.name], part, block.units, count)
    wrong = sorted(changed(wanted, built_shapes(model, config)))
    if wrong:
        raise ValueError(
            f"{type(model).__name__}: its class does not build a model cut like this: the shape of "
            f"{', '.join(wrong[:3])} would be another"
        )
    return SlimPlan(config, tuple(blocks), tuple(units), field)


def shapes_of(model: nn.Module) -> Shapes:
    """Shape of every tensor that is saved."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def built_shapes(model: nn.Module, config: Any) -> Shapes:
    """Shapes of what the class of `model` builds from `config`, without memory for it."""
    kind: Any = type(model)
    with torch.device("meta"):
        return shapes_of(kind._from_config(copy.deepcopy(config)))


def changed(before: Shapes, after: Shapes) -> list[str]:
    """Names whose shapes differ."""
    return [name for name, shape in before.items() if after.get(name) != shape]


def _narrower(
    model: nn.Module, config: Any, experts: list[UnitBlock], width: int
) -> tuple[str, Any, Shapes]:
    """The setting that states the experts' width, the narrower configuration, its shapes."""
    present = {block.units for block in experts}
    if len(present) > 1:
        raise ValueError(f"experts of different widths ({sorted(present)}) in one model")
    (now,) = present
    if not 0 < width <= now:
        raise ValueError(f"width {width}: the experts have {now} neurons, choose 1 to {now}")
    if width == now:
        return "", config, shapes_of(model)
    before = shapes_of(model)
    parts = [part for block in experts for part in block.parts]

    def narrower(after: Shapes) -> bool:
        return all(after.get(p.name) == _cut(before[p.name], p, now, width) for p in parts)

    return setting_of(model, config, now, width, narrower)


def setting_of(
    model: nn.Module, config: Any, now: int, wanted: int, accepted: Callable[[Shapes], bool]
) -> tuple[str, Any, Shapes]:
    """The setting to change from `now` to `wanted` for accepted shapes: its name, all settings, shapes."""
    before, found = shapes_of(model), []
    for name, value in text_config(config).to_dict().items():
        many = isinstance(value, list)
        if value != now and not (many and value and all(one == now for one in value)):
            continue
        tried = copy.deepcopy(config)
        setattr(text_config(tried), name, [wanted] * len(value) if many else wanted)
        try:
            after = built_shapes(model, tried)
        except (ValueError, RuntimeError, TypeError, AssertionError, ZeroDivisionError):
            continue  # a number that only looks alike, and does not fit the rest
        if accepted(after):
            found.append((len(changed(before, after)), name, tried, after))
    if not found:
        raise ValueError(
            f"{type(model).__name__}: no setting of its configuration states the {now}"
        )
    return min(found, key=lambda one: one[0])[1:]


def _cut(shape: tuple[int, ...], part: Part, now: int, width: int) -> tuple[int, ...]:
    return (*shape[: part.axis], shape[part.axis] // now * width, *shape[part.axis + 1 :])


def _tied_mlps(model: nn.Module, after: Shapes, experts: list[UnitBlock]) -> list[UnitBlock]:
    """Shared experts and dense layers whose width follows the same setting, from the shapes alone."""
    before = shapes_of(model)
    known = {part.name for block in experts for part in block.parts}
    modules: dict[str, list[str]] = {}
    for name in changed(before, after):
        if name not in known:
            modules.setdefault(_module_of(name), []).append(name)
    return [_mlp(path, names, before, after) for path, names in modules.items()]


def _module_of(name: str) -> str:
    """The MLP that the tensor is of: a linear map has a module of its own, a fused tensor has not."""
    owner, _, last = name.rpartition(".")
    return owner.rpartition(".")[0] if last in ("weight", "bias") else owner


def _mlp(path: str, names: list[str], before: Shapes, after: Shapes) -> UnitBlock:
    """An MLP, or several fused ones: the map whose last axis shrinks reads the neurons."""
    axes = {
        name: [
            i
            for i, (a, b) in enumerate(zip(before[name], after.get(name, ()), strict=False))
            if a != b
        ]
        for name in names
    }
    downs = [n for n in names if len(before[n]) > 1 and axes[n] == [len(before[n]) - 1]]
    rows = [n for n in names if n not in downs]
    fused = len(before[downs[0]]) - 2 if downs else 0
    if len(downs) != 1 or any(axes[name] != [fused] for name in rows):
        raise ValueError(f"{path}: {', '.join(names)} follow the experts' width, but are no MLP")
    output = Part(downs[0], fused + 1)
    units = before[output.name][-1]
    # Twice as many rows are gate and up in one.
    parts = [Part(name, fused, outer=before[name][fused] // units) for name in rows]
    experts = before[output.name][0] if fused else None
    return UnitBlock(path, "mlp", experts, units, (*parts, output), output)
