"""Sixteen ways in which balancing is configured and does not act: does the monitor name each?

    python -m benchmarks.studies.silent_faults --json FILE --markdown FILE

A small mixture of experts (torch; three layers, top-2 of 8) is trained 40 steps of two micro-batches,
with padding, evaluation and gradient checkpointing, every other step sampled. Each fault is in the
second layer alone where it can be. A fault counts as named if the monitor raises it, in that layer, and
nothing else; a healthy twin, the same run without the fault, must raise nothing.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.environment import environment
from mfgjax.monitor import Fault, Monitor
from mfgjax.monitor.faults import Alarm
from mfgjax_extract.loop import watch_training

LAYERS, EXPERTS, TOP_K, WIDTH, HIDDEN, VOCABULARY = 3, 8, 2, 32, 16, 32
STEPS, EVERY, BATCHES, SEQUENCES, LENGTH = 40, 2, 2, 8, 16
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
    sequences: int = SEQUENCES
    score: str = "softmax"
    renormalised: bool = True


PLANS: dict[int, Plan] = {
    1: Plan("aux", Fault.AUX_NOT_COMPUTED),
    2: Plan("aux", Fault.AUX_POOLED),
    3: Plan("aux", Fault.AUX_WITHOUT_GRADIENT),
    4: Plan("aux", Fault.AUX_OF_RAW_LOGITS),
    5: Plan("bias", Fault.BIAS_NEVER_UPDATED),
    6: Plan("bias", Fault.BIAS_ROUNDED),
    7: Plan("bias", Fault.COUNTER_ROUNDED, sequences=48),
    8: Plan("bias", Fault.COUNTER_HAS_EVALUATION),
    9: Plan("bias", Fault.COUNTER_MULTIPLE),
    10: Plan("bias", Fault.COUNTER_PARTIAL),
    11: Plan("bias", Fault.ROUTES_REPLAYED),
    12: Plan("bias", Fault.BIAS_IN_WEIGHTS),
    13: Plan("bias", Fault.COUNTER_HAS_PADDING),
    14: Plan("aux", Fault.LOSS_HIDES_COLLAPSE),
    15: Plan("aux", Fault.EXPERT_DEAD_BY_OUTPUT),
    16: Plan("aux", Fault.ROUTER_NOT_TRAINED),
}
"""In the order of the issue threads that they are from."""

EVERYWHERE = {Fault.AUX_NOT_COMPUTED, Fault.AUX_POOLED}
"""Faults of the loss of all layers."""


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


def router_of(block: nn.Module) -> Router:
    assert isinstance(block, Block)
    return block.gate


def experts_of(block: nn.Module) -> Experts:
    assert isinstance(block, Block)
    return block.experts


class Model(nn.Module):
    """Returns `loss` and `aux_loss`, as models of transformers do."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.plan = plan
        self.config = SimpleNamespace(router_aux_loss_coef=0.05 if plan.balance == "aux" else 0.0)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        faults = [plan.fault if i == FAULTY else None for i in range(LAYERS)]
        self.layers = nn.ModuleList(Block(plan, fault) for fault in faults)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        x = self.embed(input_ids)
        kept = attention_mask.flatten().bool()
        logits, choices = [], []
        for layer in self.layers:
            router_of(layer).mask = kept
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


def run(plan: Plan, *, steps: int = STEPS, seed: int = 0, monitor: Any = None) -> list[Alarm]:
    """Train one plan under a monitor; returns its alarms."""
    torch.manual_seed(seed)
    model = Model(plan)
    routers = [router_of(block) for block in model.layers]
    if plan.fault is Fault.ROUTER_NOT_TRAINED:
        routers[FAULTY].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    draw = torch.Generator().manual_seed(seed)
    monitor = Monitor() if monitor is None else monitor
    with monitor, watch_training(model, optimizer, monitor, every=EVERY):
        for step in range(steps):
            if step % 10 == 4:
                model.eval()
                with torch.no_grad():
                    model(**batch(draw, plan.sequences))
                model.train()
            for _ in range(BATCHES):
                (model(**batch(draw, plan.sequences)).loss / BATCHES).backward()
            if plan.fault is Fault.EXPERT_DEAD_BY_OUTPUT:
                with torch.no_grad():
                    down = experts_of(model.layers[FAULTY]).down
                    down[3] = 0
                    if down.grad is not None:
                        down.grad[3] = 0
            optimizer.step()
            optimizer.zero_grad()
            if plan.balance == "bias":
                for router in routers:
                    router.update_bias()
    return monitor.alarms


def expected(plan: Plan) -> set[tuple[Fault, str]]:
    """Faults and layers that the monitor should name."""
    if plan.fault is None:
        return set()
    places = range(LAYERS) if plan.fault in EVERYWHERE else [FAULTY]
    return {(plan.fault, f"layers.{i}.gate") for i in places}


def judge(number: int, plan: Plan, seed: int = 0) -> dict[str, Any]:
    """One row of the table."""
    alarms, twin = run(plan, seed=seed), run(Plan(plan.balance, None, plan.sequences), seed=seed)
    named = {(alarm.fault, alarm.layer) for alarm in alarms}
    wanted = expected(plan)
    right = bool(named) and (named <= wanted if plan.fault is Fault.AUX_POOLED else named == wanted)
    first = min((a.step // EVERY + 1 for a in alarms if a.fault is plan.fault), default=None)
    return {
        "number": number,
        "fault": str(plan.fault),
        "named": right,
        "sampled_steps": first,
        "others": sorted({str(f) for f, _ in named - wanted}),
        "twin_alarms": len(twin),
        "sentence": next((a.sentence for a in alarms if a.fault is plan.fault), ""),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the documentation."""
    lines = [
        "| | fault | named, right layer only | sampled steps | healthy twin |",
        "|--:|:--|:--|--:|:--|",
    ]
    for row in rows:
        named = "yes" if row["named"] else f"**no** ({', '.join(row['others']) or 'silent'})"
        twin = "silent" if not row["twin_alarms"] else f"**{row['twin_alarms']} alarms**"
        steps = "-" if row["sampled_steps"] is None else row["sampled_steps"]
        lines.append(f"| {row['number']} | {row['fault']} | {named} | {steps} | {twin} |")
    return "\n".join(lines) + "\n"


def main(
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
    markdown_path: Annotated[Path | None, typer.Option("--markdown")] = None,
    only: Annotated[int | None, typer.Option(help="One fault by its number.")] = None,
) -> None:
    """Seed each fault, and print what the monitor says."""
    torch.set_num_threads(1)
    console = Console()
    rows = []
    for number, plan in PLANS.items():
        if only in (None, number):
            rows.append(judge(number, plan))
            console.print(rows[-1], soft_wrap=True)
    if json_path:
        json_path.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1))
    if markdown_path:
        markdown_path.write_text(markdown(rows))


if __name__ == "__main__":
    typer.run(main)
