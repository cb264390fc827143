"""Sixteen ways in which balancing is configured and does not act: does the monitor name each?

    python -m benchmarks.studies.silent_faults --json FILE

A small mixture of experts (torch; three layers, top-2 of 8) is trained 40 steps of two micro-batches,
with padding, evaluation and gradient checkpointing, every other step sampled. Each fault is in the
second layer alone where it can be. A fault counts as named if the monitor raises it, in that layer, and
nothing else; a healthy twin, the same run without the fault, must raise nothing.
"""

from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.record import JsonFile, keep, table
from benchmarks.studies.faulty_moe import FAULTY, LAYERS, Model, Plan, batch
from mfgjax.monitor import Fault, Monitor
from mfgjax.monitor.faults import Alarm
from mfgjax_extract.loop import watch_training

STEPS, EVERY, BATCHES = 40, 2, 2
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


def run(plan: Plan, *, steps: int = STEPS, seed: int = 0, monitor: Any = None) -> list[Alarm]:
    """Train one plan under a monitor; returns its alarms."""
    torch.manual_seed(seed)
    model = Model(plan)
    routers = [block.gate for block in model.blocks]
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
                    down = model.blocks[FAULTY].experts.down
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


def markdown(record: dict) -> str:
    """The table of the documentation."""

    def named(row: dict) -> str:
        return "yes" if row["named"] else f"**no** ({', '.join(row['others']) or 'silent'})"

    columns = {
        "": "number",
        "fault": "fault",
        "named, right layer only": named,
        "sampled steps": lambda row: row["sampled_steps"] or "-",
        "healthy twin": lambda row: (
            f"**{row['twin_alarms']} alarms**" if row["twin_alarms"] else "silent"
        ),
    }
    return table(record["rows"], columns) + "\n"


def main(
    json_path: JsonFile = None,
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
    keep(json_path, markdown, rows=rows)


if __name__ == "__main__":
    typer.run(main)
