"""Watch the experts at work, through an implementation of transformers' experts interface.

It computes what the eager one does, expert by expert, and hands what it sees to an observer. So every
family that uses the interface can be watched, biases, clamps and norms included.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfgjax_extract.slimming.layout import UnitBlock, expert_flags

IMPLEMENTATION = "mfgjax_observed"

Observer = Callable[[nn.Module, int, Tensor, Tensor, Tensor], None]
"""Gets module, expert, neurons `[token, unit]`, output `[token, hidden]`, routing weights `[token]`."""


@contextmanager
def observing(model: nn.Module, observer: Observer) -> Iterator[None]:
    """Call `observer` for every expert that serves tokens in the forwards inside.

    Raises:
        ValueError: experts that do not use the interface.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    modules: list[Any] = [m for m in model.modules() if expert_flags(m) is not None]
    other = [m for m in modules if expert_flags(m) is not m]
    if other:
        raise ValueError(f"{type(other[0]).__name__} does not use transformers' experts interface")
    configs = {id(m.config): m.config for m in modules}.values()
    before = [config._experts_implementation for config in configs]

    def forward(self, hidden_states, top_k_index, top_k_weights):
        return _eager(self, hidden_states, top_k_index, top_k_weights, observer)

    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, forward)
    try:
        for config in configs:
            config._experts_implementation = IMPLEMENTATION
        with torch.no_grad():
            yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._experts_implementation = name


def _eager(self: Any, hidden: Tensor, index: Tensor, weights: Tensor, observer: Observer) -> Tensor:
    total = torch.zeros_like(hidden)
    for expert in index.unique().tolist():
        if expert >= len(self.down_proj):
            continue
        token, slot = (index == expert).nonzero(as_tuple=True)
        up = "gate_up_proj" if self.has_gate else "up_proj"
        neurons = _mapped(self, up, expert, hidden[token])
        neurons = self._apply_gate(neurons) if self.has_gate else self.act_fn(neurons)
        output = _mapped(self, "down_proj", expert, neurons)
        if self.has_post_expert_norm:
            output = self.post_expert_norm(output)
        weight = weights[token, slot]
        observer(self, expert, neurons, output, weight)
        total.index_add_(0, token, (output * weight[:, None]).to(total.dtype))
    return total


def _mapped(module: Any, name: str, expert: int, x: Tensor) -> Tensor:
    weight = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    return F.linear(x, weight.T if module.is_transposed else weight, bias)


def observed_activation(
    model: nn.Module, blocks: list[UnitBlock], batches: Iterable[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Mean |h| of every unit over the tokens that reach it, and those tokens, per block.

    What is no expert (a shared expert, head groups) is watched at the input of its last map.
    """
    sums = [torch.zeros((b.experts or 1, b.units)) for b in blocks]
    counts = [torch.zeros(b.experts or 1, dtype=torch.int64) for b in blocks]
    place = {id(model.get_submodule(b.path)): i for i, b in enumerate(blocks) if b.experts}

    def observer(module, expert, neurons, _output, _weight):
        i = place[id(module)]
        sums[i][expert] += neurons.detach().float().abs().sum(0).cpu()
        counts[i][expert] += len(neurons)

    def note(i: int, _module: nn.Module, args: tuple) -> None:
        units = args[0].detach().float().abs().reshape(-1, blocks[i].units, blocks[i].output.inner)
        sums[i][0] += units.mean(-1).sum(0).cpu()
        counts[i][0] += len(units)

    handles = [
        model.get_submodule(b.output.name.removesuffix(".weight")).register_forward_pre_hook(
            partial(note, i)
        )
        for i, b in enumerate(blocks)
        if b.experts is None
    ]
    try:
        with observing(model, observer):
            for batch in batches:
                model(input_ids=batch, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    means = [total / count.clamp(min=1)[:, None] for total, count in zip(sums, counts, strict=True)]
    return [m if b.experts else m[0] for m, b in zip(means, blocks, strict=True)], counts
