"""The routers of a model as a table, from its configuration alone: no weights are loaded."""

import re
from dataclasses import dataclass

import torch
from torch import nn

from mfgjax_extract.capture import Calls, RecordCalls, chosen_experts
from mfgjax_extract.routers import Router, find_routers
from mfgjax_extract.settings import aux_loss_coef, routing_settings, selection_bias_of, text_config

_SHARED_NAME = re.compile(r"^shared_(experts?|mlp)$")


@dataclass(frozen=True)
class RouterRow:
    """Routers of one class and shape.

    Attributes:
        family: model type of the configuration.
        router_class: class name of the router.
        path: module path with layer numbers replaced by `*`.
        layers: layer numbers.
        experts: M, identity and skip experts included.
        top_k: K; None if the router cannot be run without weights.
        scoring: function seen applied to the logits, or what the configuration says, or None.
        selection_bias: whether a bias is added for the choice only.
        aux_loss_coef: coefficient of the auxiliary loss, None if the family has none.
        shared_experts: whether every token also visits shared experts.
        tapped: whether text reaches these routers.
        settings: what else the configuration says of the routing.
    """

    family: str
    router_class: str
    path: str
    layers: tuple[int, ...]
    experts: int
    top_k: int | None
    scoring: str | None
    selection_bias: bool
    aux_loss_coef: float | None
    shared_experts: bool
    tapped: bool
    settings: dict


def build_without_weights(source: str, revision: str | None, trust_remote_code: bool) -> nn.Module:
    """The base model of a folder or hub id on the meta device."""
    from transformers import AutoConfig, AutoModel

    at = {} if revision is None else {"revision": revision}
    config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **at)
    with torch.device("meta"):
        return AutoModel.from_config(config, trust_remote_code=trust_remote_code)


def router_table(model: nn.Module) -> list[RouterRow]:
    """One row per kind of router, in module order."""
    rows: dict[tuple, tuple[Router, list[int]]] = {}
    for router in find_routers(model):
        key = (re.sub(r"\d+", "*", router.path), type(router.module).__name__, router.num_experts)
        numbers = re.findall(r"\d+", router.path)
        rows.setdefault(key, (router, []))[1].append(int(numbers[0]) if numbers else 0)
    return [_row(model, path, router, layers) for (path, *_), (router, layers) in rows.items()]


def _row(model: nn.Module, path: str, router: Router, layers: list[int]) -> RouterRow:
    config = model.config
    calls = probe(router)
    choices = chosen_experts(router, calls, 1) if calls.logits is not None else None
    settings = routing_settings(config)
    return RouterRow(
        family=str(getattr(text_config(config), "model_type", "?")),
        router_class=type(router.module).__name__,
        path=path,
        layers=tuple(layers),
        experts=router.num_experts,
        top_k=None if choices is None else int(choices.shape[-1]),
        scoring=settings.get("scoring_func") or calls.scoring,
        selection_bias=selection_bias_of(router) is not None,
        aux_loss_coef=aux_loss_coef(config),
        shared_experts=any(_SHARED_NAME.match(n) for n, _ in router.block.named_children()),
        tapped=router.reached_by_text,
        settings=settings,
    )


def probe(router: Router) -> Calls:
    """Run one router for one token on its own device and see what it does.

    What comes after the choice may need real numbers and fail on the meta device; the calls up
    to there are what counts.
    """
    calls = Calls()
    width = router.weight.shape[1]
    token = torch.zeros(1, dtype=torch.int64, device=router.weight.device)
    inner = router.scope.get_parameter(_first_matrix(router.scope))
    for shape in ((1, inner.shape[1]), (1, 1, inner.shape[1]), (1, width)):
        for extra in ((), (token,)):
            x = torch.zeros(shape, dtype=router.weight.dtype, device=router.weight.device)
            calls = Calls()
            try:
                with torch.no_grad(), RecordCalls(router, calls):
                    calls.output = router.scope(x, *extra)
            except Exception:  # the wrong kind of input, or real numbers needed: see below
                calls.output = None
            if calls.logits is not None and chosen_experts(router, calls, 1) is not None:
                return calls
    return calls


def _first_matrix(module: nn.Module) -> str:
    """Name of the first matrix of a module: its width is the width of the module's input."""
    return next(name for name, p in module.named_parameters() if p.ndim == 2)
