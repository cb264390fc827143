"""Attention heads as units: a key-value head with all query heads that read it (a GQA group).

SlimMoE removes whole groups in its smallest model only. Covered is attention in four plain maps
(`q_proj`, `k_proj`, `v_proj`, `o_proj`, with biases, sinks, and norms over the heads); fused or latent
attention is refused. A norm over all heads together (OLMoE's) sees fewer numbers afterwards: there,
removing a group also changes the scale of those that stay.
"""

import copy
from typing import Any

from torch import nn

from mfgjax_extract.settings import text_config
from mfgjax_extract.slimming.layout import Part, UnitBlock

_MAPS = ("q_proj", "k_proj", "v_proj", "o_proj")


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
