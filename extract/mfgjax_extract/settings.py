"""Routing settings that a model states: auxiliary loss, groups, selection bias."""

import re

import torch
from torch import Tensor

from mfgjax_extract.routers import Router

_BIAS_NAME = re.compile(r"(correction_bias|expert_bias|balancing_bias(es)?|score_bias)$")
_ALPHA_NAMES = (
    "router_aux_loss_coef",
    "aux_loss_coef",
    "aux_loss_alpha",
    "moe_loss_weight",
    "moe_aux_loss_coeff",
    "load_balancing_loss_weight",
)
_ROUTING_KEYS = (
    "norm_topk_prob",
    "n_group",
    "topk_group",
    "topk_method",
    "scoring_func",
    "routed_scaling_factor",
    "expert_capacity",
    "router_z_loss_coef",
    "moe_router_logit_softcapping",
    "zero_expert_num",
    "second_expert_policy",
)


def text_config(config):
    """The part of a configuration that describes the text stack."""
    get = getattr(config, "get_text_config", None)
    return get() if get is not None else config


def _lookup(config, name: str):
    for owner in (text_config(config), config, getattr(config, "ffn_config", None)):
        value = getattr(owner, name, None)
        if value is not None:
            return value
    return None


def aux_loss_coef(config) -> float | None:
    """The auxiliary loss coefficient, None if the family has none (loss-free balancing)."""
    for name in _ALPHA_NAMES:
        value = _lookup(config, name)
        if isinstance(value, int | float):
            return float(value)
    return None


def routing_settings(config) -> dict:
    """Settings that shape the choice, as far as the configuration states them."""
    found = {name: _lookup(config, name) for name in _ROUTING_KEYS}
    return {k: v for k, v in found.items() if isinstance(v, int | float | str)}


def selection_bias_of(router: Router) -> Tensor | None:
    """The tensor that is added to the scores before the choice only, on its device, or None."""
    for owner in (router.module, router.block):
        for name, tensor in [*owner.named_buffers(), *owner.named_parameters()]:
            if _BIAS_NAME.search(name) and tensor.numel() == router.num_experts:
                return tensor.detach().reshape(-1)
    return None


def selection_bias(router: Router) -> Tensor | None:
    """`selection_bias_of`, copied to `[expert]` float32 on the CPU."""
    found = selection_bias_of(router)
    return None if found is None else found.to("cpu", torch.float32)
