"""Find the routers of a model, by class name or by structure, without running it.

Two rules, in this order:

1. a module whose class is named like a router and that owns a 2-D weight or holds a linear map;
2. a plain `nn.Linear` named like a gate whose parent also holds experts (the layout of older
   transformers, of OpenMoE and of most code outside transformers).
"""

import dataclasses
import re
from dataclasses import dataclass

import torch
from torch import nn

from mfgjax_extract.families import FamilyRule, rule_for
from mfgjax_extract.sweep_settings import layers_pattern

ROUTER_CLASS = re.compile(r"(Router|TopKGating|TopkGating|MoEGate|MoeGate|MoEV1Gate|Gate)$")
"""Class names of router modules in transformers 4.57 to 5.23 and in common remote code."""

NOT_A_ROUTER = re.compile(r"(Forget|Residual|Density|DFine|Deimv2)\w*(Gate|Router)$|RouterMLP$")
"""Gates of attention, residual streams and detection heads: the same names, no experts."""

LINEAR_GATE_NAMES = ("gate", "router", "wg", "router_gate")
OTHER_MODALITY = re.compile(r"(^|[._])(vision|visual|image|audio|talker|code_predictor)")
"""Paths of routers that text does not reach."""


@dataclass(frozen=True)
class Router:
    """One router of a model.

    Attributes:
        path: module path inside the model.
        module: the router itself; for a plain linear gate, that `nn.Linear`.
        scope: the module whose forward contains the linear map and the choice: the router, or
            the block around a plain linear gate.
        weight: the weight of the linear map, `[expert, hidden]`.
        block: the module around router and experts.
        experts: the module that receives the chosen indices, if there is one.
        rule: how this family departs from the general rule, or None.
        in_encoder: whether it is in the encoder of a model that also has a decoder.
    """

    path: str
    module: nn.Module
    scope: nn.Module
    weight: torch.Tensor
    block: nn.Module
    experts: nn.Module | None
    rule: FamilyRule | None
    in_encoder: bool = False

    @property
    def num_experts(self) -> int:
        """M: the number of classes the router scores (identity and skip experts included)."""
        if self.rule is not None and self.rule.expert_count is not None:
            return self.rule.expert_count(self.scope)
        return int(self.weight.shape[0])

    @property
    def has_capacity(self) -> bool:
        """Whether an expert can refuse a token that chose it."""
        return self.rule is not None and self.rule.dispatched is not None

    @property
    def reached_by_text(self) -> bool:
        return OTHER_MODALITY.search(self.path) is None


def find_routers(model: nn.Module) -> list[Router]:
    """All routers of `model` in module order, vision and audio ones included.

    Returns:
        The routers; an empty list when there are none.
    """
    modules = dict(model.named_modules())
    two_stacks = is_encoder_decoder(model)
    found: list[Router] = []
    claimed: set[int] = set()
    for path, module in modules.items():
        if id(module) in claimed:
            continue
        parent = modules[path.rpartition(".")[0]] if path else module
        router = _router_class(path, module, parent) or _linear_gate(path, module, parent)
        if router is not None:
            encoder = two_stacks and re.search(r"(^|\.)encoder\.", path) is not None
            found.append(dataclasses.replace(router, in_encoder=encoder))
            claimed.update(id(inner) for inner in module.modules())
    return found


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether texts pass through two stacks. The encoder half alone counts as one stack."""
    stated = getattr(getattr(model, "config", None), "is_encoder_decoder", True)
    # A stack has parts: the linear map called "decoder" in the head of a BERT has none.
    return bool(stated) and any(
        re.search(r"(^|\.)decoder\.", path) is not None for path, _ in model.named_modules()
    )


def matching(routers: list[Router], layers: str) -> list[Router]:
    """The routers whose path the regular expression `layers` finds; all for an empty one."""
    pattern = layers_pattern(layers)
    return [r for r in routers if pattern.search(r.path)]


def _router_class(path: str, module: nn.Module, parent: nn.Module) -> Router | None:
    name = type(module).__name__
    if not ROUTER_CLASS.search(name) or NOT_A_ROUTER.search(name):
        return None
    if isinstance(getattr(parent, "gate", None), nn.Linear) and module is not parent.gate:
        return None  # a router without weights beside a linear gate (OpenMoE): the gate is it
    weight = _router_weight(module)
    if weight is None:
        return None
    # A router that returns only logits leaves the choice to the block around it.
    scope = parent if _chooses_outside(module) else module
    rule = rule_for(module)
    return Router(path, module, scope, weight, parent, _experts_of(parent, rule), rule)


def _linear_gate(path: str, module: nn.Module, parent: nn.Module) -> Router | None:
    name = path.rpartition(".")[2]
    if not isinstance(module, nn.Linear) or name not in LINEAR_GATE_NAMES:
        return None
    rule = rule_for(parent)
    if rule is None:
        experts = getattr(parent, "experts", None)
        if not isinstance(experts, nn.Module) or module.out_features not in _sizes(experts, parent):
            return None
    return Router(path, module, parent, module.weight, parent, _experts_of(parent, rule), rule)


def _router_weight(module: nn.Module) -> torch.Tensor | None:
    """The weight of the map to expert logits: the module's own, else its last inner linear's."""
    own = [p for p in module.parameters(recurse=False) if p.ndim == 2]
    if own:
        return own[0]
    linears = [inner for inner in module.modules() if isinstance(inner, nn.Linear)]
    return linears[-1].weight if linears else None


def _chooses_outside(module: nn.Module) -> bool:
    # The second in transformers before 5.0 only; later the wider scope does no harm.
    return type(module).__name__ in ("DbrxRouter", "HunYuanMoEV1Gate")


def _experts_of(parent: nn.Module, rule: FamilyRule | None) -> nn.Module | None:
    experts = getattr(parent, rule.experts_child if rule else "experts", None)
    return experts if isinstance(experts, nn.Module) else None


def _sizes(experts: nn.Module, parent: nn.Module) -> set[int]:
    """Every number that the experts or their block may state as the number of experts."""
    sizes: set[int] = set()
    if isinstance(experts, nn.ModuleList | nn.ModuleDict):
        sizes.add(len(experts))
    for owner in (experts, parent):
        for name in ("num_experts", "n_routed_experts", "num_local_experts", "num_total_experts"):
            value = getattr(owner, name, None)
            if isinstance(value, int):
                sizes.add(value)
    sizes.update(int(p.shape[0]) for p in experts.parameters() if p.ndim == 3)
    return sizes
