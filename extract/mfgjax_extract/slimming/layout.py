"""Where the neurons of a model lie in its tensors.

A *unit* is what is kept or removed as one: a neuron of an expert (a row of its gate map, a row of its up
map and a column of its down map), or a whole group of attention heads. How fused experts pack them is read
from the flags that transformers' experts interface puts on the module; no family is named, but for three
that fuse their experts without declaring it.

SlimMoE removes whole groups of heads (a key-value head with all query heads that read it) in its smallest model
only. Covered is attention in four plain maps (`q_proj`, `k_proj`, `v_proj`, `o_proj`, with biases, sinks, and norms
over the heads); fused or latent attention is refused. A norm over all heads together (OLMoE's) sees fewer numbers
afterwards: there, removing a group also changes the scale of those that stay.
"""

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from mfgjax_extract.settings import text_config

_MAPS = ("q_proj", "k_proj", "v_proj", "o_proj")
_FLAGS = ("has_gate", "has_bias", "is_transposed", "is_concatenated")

_UNDECLARED = {
    "Llama4TextExperts": {"is_transposed": True},
    "LongcatFlashExperts": {},
    "Step3p7Experts": {},
}
"""Experts fused in the usual tensors, by a class that does not use the interface: flags off the default."""

NOT_SLIMMED = {
    "dbrx": "the experts of a layer share two-dimensional tensors of DBRX's own",
    "doge": "an expert is one row of an embedding: it has no neurons to choose from",
    "jetmoe": "expert layers of its own (JetMoeParallelExperts), in its attention as well",
    "nllb-moe": "one module per expert, of the width of its dense layers",
    "switch_transformers": "one module per expert, of the width of its dense layers",
}
"""Model types of the extractor whose experts cannot be slimmed, each with its reason."""


@dataclass(frozen=True)
class Part:
    """One tensor of a block: its axis `axis` holds `outer * units * inner` numbers, units in the middle.

    Gate and up one after the other have `outer = 2`, interleaved ones `inner = 2`, a head group the
    number of its rows as `inner`.
    """

    name: str
    axis: int
    outer: int = 1
    inner: int = 1

    def split(self, tensor: Tensor, units: int) -> tuple[Tensor, int]:
        """The tensor with the axis as `(outer, units, inner)`, and the axis of the units."""
        return tensor.unflatten(self.axis, (self.outer, units, self.inner)), self.axis + 1


@dataclass(frozen=True)
class UnitBlock:
    """Units that compete with each other: the neurons of every expert of a layer, or its head groups.

    Attributes:
        path: of the module.
        kind: "experts", "mlp" or "heads".
        experts: number of experts, each with units of its own; None where there is one set.
        units: how many there are (of each expert).
        parts: every tensor that has them.
        output: the part that reads the units: by it a unit mask can be folded into the weights.
    """

    path: str
    kind: str
    experts: int | None
    units: int
    parts: tuple[Part, ...]
    output: Part


def expert_blocks(model: nn.Module) -> list[UnitBlock]:
    """The fused experts of every layer, in module order.

    Raises:
        ValueError: there are none; names the reason where it is known.
    """
    blocks = [
        _of_experts(path, module, flags)
        for path, module in model.named_modules()
        if (flags := expert_flags(module)) is not None
    ]
    if not blocks:
        config: Any = model.config
        kind = getattr(config, "model_type", type(model).__name__)
        reason = NOT_SLIMMED.get(kind, "no module of it has fused experts (is it a mixture?)")
        raise ValueError(f"{kind}: its experts cannot be slimmed: {reason}")
    return blocks


def expert_flags(module: nn.Module) -> Any:
    """How `module` packs its experts (attributes `has_gate`, ...), None if it holds none."""
    if not isinstance(getattr(module, "down_proj", None), nn.Parameter):
        return None
    if all(isinstance(getattr(module, name, None), bool) for name in _FLAGS):
        return module
    undeclared = _UNDECLARED.get(type(module).__name__)
    if undeclared is None:
        return None
    usual = {"has_gate": True, "has_bias": False, "is_transposed": False, "is_concatenated": True}
    return SimpleNamespace(**(usual | undeclared))


def _of_experts(path: str, module: nn.Module, flags: Any) -> UnitBlock:
    up = "gate_up_proj" if flags.has_gate else "up_proj"
    prefix = f"{path}." if path else ""
    pair = {}
    if flags.has_gate:
        pair = {"outer": 2} if flags.is_concatenated else {"inner": 2}
    rows = Part(f"{prefix}{up}", 2 if flags.is_transposed else 1, **pair)
    down = Part(f"{prefix}down_proj", 1 if flags.is_transposed else 2)
    parts = [rows, down]
    if flags.has_bias:  # the down map's bias is not of the neurons
        parts.append(Part(f"{rows.name}_bias", 1, **pair))
    weight = module.get_parameter("down_proj")
    return UnitBlock(path, "experts", len(weight), int(weight.shape[down.axis]), tuple(parts), down)


def fewer_heads(model: nn.Module, config: Any, groups: int) -> tuple[Any, list[UnitBlock]]:
    """The configuration with `groups` key-value heads, and the groups of every layer.

    Raises:
        ValueError: more groups than there are, or attention that is not covered.
    """
    config = copy.deepcopy(config)
    text = text_config(config)
    heads = getattr(text, "num_attention_heads", None)
    now = getattr(text, "num_key_value_heads", None) or heads
    if heads is None or now is None:
        raise ValueError(f"{type(model).__name__}: its configuration states no attention heads")
    if not 0 < groups <= now:
        raise ValueError(f"{groups} head groups: there are {now}, choose 1 to {now}")
    found: list[tuple[str, Any]] = [
        (path, module)
        for path, module in model.named_modules()
        if all(isinstance(getattr(module, name, None), nn.Linear) for name in _MAPS)
    ]
    sizes = {module.o_proj.in_features / heads for _, module in found}
    sizes |= {module.k_proj.out_features / now for _, module in found}
    if len(sizes) != 1 or not (size := sizes.pop()).is_integer():
        raise ValueError(
            f"{type(model).__name__}: its attention is not {heads} heads in four plain maps of one size "
            f"({', '.join(_MAPS)}): only its experts can be slimmed"
        )
    text.num_attention_heads, text.num_key_value_heads = heads // now * groups, groups
    text.head_dim = int(size)  # else it would be hidden / heads, of fewer heads
    return config, [_groups(path, module, heads, now, int(size)) for path, module in found]


def _groups(path: str, module: nn.Module, heads: int, now: int, size: int) -> UnitBlock:
    """Every tensor whose rows belong to heads, told by its name and length."""
    queries = heads // now
    output = Part(f"{path}.o_proj.weight", 1, inner=queries * size)
    lengths = {"q": queries * size, "k": size, "v": size, "sinks": queries}
    parts = [output]
    for name, tensor in module.named_parameters():
        inner = lengths.get("sinks" if name == "sinks" else name[0])
        if not name.startswith("o_proj") and inner is not None and len(tensor) == now * inner:
            parts.append(Part(f"{path}.{name}", 0, inner=inner))
    return UnitBlock(path, "heads", None, now, tuple(parts), output)
