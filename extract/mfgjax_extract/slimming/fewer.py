"""The other way to make a mixture smaller: fewer experts. Baselines for slimming at equal parameters.

* drop by REAP's score (arXiv 2510.13999): the mean over an expert's tokens of routing weight times norm of
  its output; drop by frequency;
* merge by frequency (as M-SMoE, arXiv 2310.01334, without aligning neurons): the most frequent experts
  stay, every other is averaged into the one with the nearest router row, weighted by how often each is used.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mfgjax_extract.routers import find_routers
from mfgjax_extract.slimming.cut import rebuilt
from mfgjax_extract.slimming.layout import UnitBlock, expert_blocks
from mfgjax_extract.slimming.observe import observing
from mfgjax_extract.slimming.plan import built_shapes, changed, setting_of, shapes_of

WEIGHTS_SAY_NOTHING = {
    "PhimoeTopKRouter": "sparsemixer's weights in evaluation are 1 for nearly every token, so that they do "
    "not carry what the gate prefers: a score with them is the plain norm"
}
"""Routers whose weights cannot rank experts, with the reason."""


def expert_use(model: nn.Module, batches: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Per layer of experts: how many choices each got, and the sum of weight times output norm."""
    blocks = expert_blocks(model)
    place = {id(model.get_submodule(b.path)): i for i, b in enumerate(blocks)}
    counts = [torch.zeros(b.experts or 0) for b in blocks]
    norms = [torch.zeros(b.experts or 0) for b in blocks]

    def observer(module, expert, _neurons, output, weight):
        i = place[id(module)]
        counts[i][expert] += len(output)
        norms[i][expert] += float((weight * output.norm(dim=-1)).sum())

    with observing(model, observer):
        for batch in batches:
            model(input_ids=batch, use_cache=False)
    return list(zip(counts, norms, strict=True))


def drop_experts(model: nn.Module, keep: int, batches: Iterable[Tensor], by: str = "reap") -> Any:
    """A model of the `keep` experts of every layer that score highest by "reap" or "frequency".

    Raises:
        ValueError: fewer than the router chooses, or weights that say nothing of the gate.
    """
    if by == "reap":
        for router in find_routers(model):
            reason = WEIGHTS_SAY_NOTHING.get(type(router.module).__name__)
            if reason is not None:
                raise ValueError(f"REAP's score cannot rank the experts of {router.path}: {reason}")
    mixing = []
    for count, norm in expert_use(model, batches):
        score = count if by == "frequency" else norm / count.clamp(min=1)
        leaders = score.topk(keep).indices.sort().values
        mixing.append((leaders, torch.eye(len(count))[leaders]))
    return _regrouped(model, keep, mixing)


def merge_experts(model: nn.Module, keep: int, batches: Iterable[Tensor]) -> Any:
    """A model whose `keep` most frequent experts have taken in the others."""
    blocks = expert_blocks(model)
    routers = {id(r.experts): r for r in find_routers(model) if r.experts is not None}
    mixing = []
    for block, (count, _) in zip(blocks, expert_use(model, batches), strict=True):
        row = routers[id(model.get_submodule(block.path))].weight.detach().float().cpu()
        row = row / row.norm(dim=-1, keepdim=True)
        leaders = count.topk(keep).indices.sort().values
        nearest = (row @ row[leaders].T).argmax(-1)
        nearest[leaders] = torch.arange(keep)
        weight = torch.zeros(keep, len(count))
        weight[nearest, torch.arange(len(count))] = count.clamp(min=1e-6)
        mixing.append((leaders, weight / weight.sum(-1, keepdim=True)))
    return _regrouped(model, keep, mixing)


@torch.no_grad()
def _regrouped(model: nn.Module, keep: int, mixing: list[tuple[Tensor, Tensor]]) -> Any:
    """Every layer's experts as the given averages of the old ones, with their leaders' router rows."""
    blocks = expert_blocks(model)
    now = blocks[0].experts or 0
    chosen = max(int(getattr(r.scope, "top_k", 1)) for r in find_routers(model))
    if keep < chosen:
        raise ValueError(f"{keep} experts: the router chooses {chosen} for every token")
    before = shapes_of(model)

    def fewer(after) -> bool:
        return all(after.get(p.name, (0,))[0] == keep for b in blocks for p in b.parts)

    _, config, _ = setting_of(model, copy.deepcopy(model.config), now, keep, fewer)
    after = built_shapes(model, config)
    state = dict(model.state_dict())
    for name in changed(before, after):
        leaders, weight = mixing[_layer_of(name, blocks)]
        axis = next(
            i for i, (a, b) in enumerate(zip(before[name], after[name], strict=True)) if a != b
        )
        if any(name.startswith(f"{block.path}.") for block in blocks):
            tensor = state[name]
            state[name] = torch.tensordot(weight.to(tensor.dtype), tensor, 1)
        else:
            state[name] = state[name].index_select(axis, leaders)
    return rebuilt(model, config, state)


def _layer_of(name: str, blocks: list[UnitBlock]) -> int:
    """The experts that share most of their path with the tensor."""

    def shared(block: UnitBlock) -> int:
        pairs = zip(name.split("."), block.path.split("."), strict=False)
        same = [a == b for a, b in pairs]
        return same.index(False) if False in same else len(same)

    return max(range(len(blocks)), key=lambda i: shared(blocks[i]))
