"""A small mixture of experts (torch) whose balancing can be configured and not act.

Three layers, top-2 of 8, balanced by the Switch loss of each layer or by the sign rule. A fault is in the second
layer alone where it can be.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mfgjax.monitor import Fault

LAYERS, EXPERTS, TOP_K, WIDTH, HIDDEN, VOCABULARY, LENGTH = 3, 8, 2, 32, 16, 32, 16
FAULTY = 1
"""Index of the layer that has the fault."""


@dataclass(frozen=True)
class Plan:
    """One run. By default healthy.

    Attributes:
        balance: "aux" (Switch loss per layer) or "bias" (sign rule).
        fault: what is seeded.
        sequences: per micro-batch.
        score: "softmax" or "sigmoid" of the logits.
        renormalised: whether the combine weights of a token add up to 1.
    """

    balance: str = "aux"
    fault: Fault | None = None
    sequences: int = 8
    score: str = "softmax"
    renormalised: bool = True


class Router(nn.Module):
    """Top-k of scores plus bias; counts its choices for the update of the bias."""

    expert_bias: Tensor
    tokens_per_expert: Tensor

    def __init__(self, plan: Plan, fault: Fault | None):
        super().__init__()
        self.fault, balance = fault, plan.balance
        self.score, self.renormalised = plan.score, plan.renormalised
        self.weight = nn.Parameter(torch.randn(EXPERTS, WIDTH) * 0.2)
        if balance == "bias":
            bits = torch.bfloat16 if fault is Fault.BIAS_ROUNDED else torch.float32
            counts = torch.bfloat16 if fault is Fault.COUNTER_ROUNDED else torch.float32
            self.register_buffer("expert_bias", torch.zeros(EXPERTS, dtype=bits))
            self.register_buffer("tokens_per_expert", torch.zeros(EXPERTS, dtype=counts))
        self.balance = balance
        self.mask: Tensor | None = None
        self.recomputing = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = F.linear(x, self.weight)
        probability = logits.sigmoid() if self.score == "sigmoid" else logits.softmax(-1)
        biased = self.balance == "bias"
        score = probability + self.expert_bias.float() if biased else probability
        if (
            self.fault is Fault.LOSS_HIDES_COLLAPSE
        ):  # chosen by an offset that the loss does not see
            score = score + 2.0 * (torch.arange(EXPERTS) < TOP_K)
        chosen = score.topk(TOP_K, -1).indices
        if self.fault is Fault.ROUTES_REPLAYED:
            chosen = torch.arange(len(x))[:, None].add(torch.arange(TOP_K)) % EXPERTS
        weight = probability.gather(-1, chosen)
        if self.fault is Fault.BIAS_IN_WEIGHTS:
            weight = weight + self.expert_bias.gather(-1, chosen.flatten()).view_as(weight)
        if self.renormalised:
            weight = weight / weight.sum(-1, keepdim=True)
        if biased:
            self._count(chosen)
        return logits, weight, chosen

    def _count(self, chosen: Tensor) -> None:
        outside = not self.training and self.fault is not Fault.COUNTER_HAS_EVALUATION
        again = torch._C._current_graph_task_id() != -1 and self.fault is not Fault.COUNTER_MULTIPLE
        if outside or again:
            return
        assert self.mask is not None
        kept = chosen if self.fault is Fault.COUNTER_HAS_PADDING else chosen[self.mask]
        count = torch.bincount(kept.flatten(), minlength=EXPERTS).to(self.tokens_per_expert.dtype)
        if self.fault is Fault.COUNTER_PARTIAL:
            self.tokens_per_expert.copy_(count)
        else:
            self.tokens_per_expert.add_(count)

    @torch.no_grad()
    def update_bias(self, step: float = 0.01) -> None:
        count = self.tokens_per_expert.float()
        if self.fault is not Fault.BIAS_NEVER_UPDATED:
            moved = self.expert_bias + step * torch.sign(count.mean() - count)
            self.expert_bias.copy_(moved)
        self.tokens_per_expert.zero_()


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN) * WIDTH**-0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH) * HIDDEN**-0.5)

    def forward(self, x: Tensor, chosen: Tensor, weight: Tensor) -> Tensor:
        used = torch.zeros(len(x), EXPERTS).scatter(-1, chosen, weight)
        inner = torch.einsum("td,mdf->tmf", x, self.up).relu() * used[..., None]
        return torch.einsum("tmf,mfd->td", inner, self.down)


class Block(nn.Module):
    def __init__(self, plan: Plan, fault: Fault | None):
        super().__init__()
        self.gate = Router(plan, fault)
        self.experts = Experts()
        self.norm = nn.RMSNorm(WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.norm(x).flatten(0, 1) + 0.5  # a common direction: loads start uneven
        logits, weight, chosen = self.gate(h)
        return x + self.experts(h, chosen, weight).view_as(x), logits, chosen


class Model(nn.Module):
    """Returns `loss` and `aux_loss`, as models of transformers do."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.plan = plan
        self.config = SimpleNamespace(router_aux_loss_coef=0.05 if plan.balance == "aux" else 0.0)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        faults = [plan.fault if i == FAULTY else None for i in range(LAYERS)]
        self.blocks = [Block(plan, fault) for fault in faults]
        self.layers = nn.ModuleList(self.blocks)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        x = self.embed(input_ids)
        kept = attention_mask.flatten().bool()
        logits, choices = [], []
        for layer in self.blocks:
            layer.gate.mask = kept
            if self.training:
                x, z, chosen = checkpoint(layer, x, use_reentrant=False)
            else:
                x, z, chosen = layer(x)
            logits.append(z[kept])
            choices.append(chosen[kept])
        scores = self.head(x)[:, :-1].flatten(0, 1)
        labels = input_ids[:, 1:].masked_fill(attention_mask[:, 1:] == 0, -100)
        loss = F.cross_entropy(scores, labels.flatten())
        aux = None if self.plan.balance == "bias" else self._aux(logits, choices)
        if aux is not None:
            loss = loss + self.config.router_aux_loss_coef * aux
        return SimpleNamespace(loss=loss, aux_loss=aux)

    def _aux(self, logits: list[Tensor], choices: list[Tensor]) -> Tensor | None:
        fault = self.plan.fault
        if fault is Fault.AUX_NOT_COMPUTED:
            return None
        if fault is Fault.AUX_POOLED:
            return LAYERS * switch_loss(torch.cat(logits), torch.cat(choices), self.plan.score)
        losses = [switch_loss(z, c, self.plan.score) for z, c in zip(logits, choices, strict=True)]
        if fault is Fault.AUX_WITHOUT_GRADIENT:
            losses[FAULTY] = losses[FAULTY].detach()
        elif fault is Fault.AUX_OF_RAW_LOGITS:
            load = F.one_hot(choices[FAULTY], EXPERTS).float().mean((0, 1))
            losses[FAULTY] = EXPERTS * (load * logits[FAULTY].mean(0)).sum()
        return torch.stack(losses).sum()


def switch_loss(logits: Tensor, chosen: Tensor, score: str) -> Tensor:
    """`M sum f P`, 1 when balanced; P is of scores that add up to 1 in every token."""
    load = F.one_hot(chosen, EXPERTS).float().mean((0, 1))
    scores = logits.sigmoid() if score == "sigmoid" else logits.softmax(-1)
    return EXPERTS * (load * (scores / scores.sum(-1, keepdim=True)).mean(0)).sum()


def batch(draw: torch.Generator, sequences: int) -> dict[str, Tensor]:
    """Sequences in which the next token is a function of the last, most of the time; some padded."""
    ids = torch.randint(1, VOCABULARY, (sequences, LENGTH), generator=draw)
    for place in range(1, LENGTH, 2):
        ids[:, place] = (3 * ids[:, place - 1] + 1) % VOCABULARY
    length = torch.randint(LENGTH // 2, LENGTH + 1, (sequences, 1), generator=draw)
    return {"input_ids": ids, "attention_mask": (torch.arange(LENGTH) < length).long()}
