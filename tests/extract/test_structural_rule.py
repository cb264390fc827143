"""Routers of code outside transformers are found by their structure and recorded."""

import pytest
import torch
from torch import nn

from mfgjax_extract import find_routers, tap_routers


class LinearGateBlock(nn.Module):
    """The layout of older transformers, OpenMoE ports and most remote code: a bare linear gate."""

    def __init__(self, hidden=16, experts=8, top_k=2):
        super().__init__()
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.experts = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(experts))
        self.top_k = top_k

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(flat).softmax(-1).topk(self.top_k, dim=-1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == e)
            out.index_add_(0, token, expert(flat[token]) * weights[token, slot, None])
        return out.reshape(x.shape)


class OpenMoeTop2Router(nn.Module):
    """No weights of its own: it receives the gate's logits (as in the PyTorch port of OpenMoE)."""

    def forward(self, logits):
        return logits.softmax(-1).topk(2, dim=-1)


class OpenMoeBlock(LinearGateBlock):
    def __init__(self):
        super().__init__()
        self.router = OpenMoeTop2Router()


class MoEGate(nn.Module):
    """As in DeepSeek's remote code: the weight is a bare parameter, the return has no logits."""

    def __init__(self, hidden=16, experts=8, top_k=2):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, hidden))
        self.top_k = top_k

    def forward(self, x):
        scores = nn.functional.linear(x.reshape(-1, x.shape[-1]), self.weight).softmax(-1)
        weight, index = torch.topk(scores, self.top_k, dim=-1, sorted=False)
        return index, weight, None


class RemoteCodeBlock(LinearGateBlock):
    def __init__(self):
        super().__init__()
        self.gate = MoEGate()

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        chosen, weights, _ = self.gate(x)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == e)
            out.index_add_(0, token, expert(flat[token]) * weights[token, slot, None])
        return out.reshape(x.shape)


@pytest.mark.parametrize("block", [LinearGateBlock, OpenMoeBlock, RemoteCodeBlock])
def test_structural_rule_on_code_outside_transformers(block):
    torch.manual_seed(0)
    model = nn.Sequential(block(), nn.LayerNorm(16), block())
    x = torch.randn(2, 5, 16)
    with torch.inference_mode():
        want = model(x)
        with tap_routers(model) as tap:
            assert torch.equal(model(x), want)
    assert [r.path for r in find_routers(model)] == ["0.gate", "2.gate"]
    first = tap.latest.layers[0]
    assert torch.equal(first.logits, x.reshape(-1, 16) @ model[0].gate.weight.T)
    assert torch.equal(
        first.choices.sort().values, first.logits.topk(2).indices.int().sort().values
    )
