"""How fast the lab trains: `python -m benchmarks.lab --json FILE`.

Tokens per second of one run, of three runs at once, and of the project's torch trainer
(`extract/training/train_olmoe.py`) at the same shape, batch and optimiser; what each rule adds to a step; and
from that what the presets take. CPU seconds of the process are given beside the clock: other work on the
machine does not count in them. Compilation is apart.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer
from rich.console import Console

from benchmarks.record import JsonFile, keep, table
from mfgjax.lab.corpus import read_corpus
from mfgjax.lab.preset import read_preset
from mfgjax.lab.rules import RULES
from mfgjax.lab.train import Trainer

TRAINING = Path(__file__).parents[1] / "extract" / "training"


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Clock and CPU seconds."""
    clock, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - cpu


def of_rule(name: str, preset, runs: int, chunks: int) -> dict[str, Any]:
    """Compilation, and seconds per step and run."""
    corpus = read_corpus()
    trainer = Trainer(preset.shape, preset.plan, RULES[name])
    state = trainer.start([(seed, {}) for seed in range(runs)])
    texts = jax.device_put((corpus.training, corpus.length))

    def go(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, _ = trainer.run_chunk(state, *texts)
        jax.block_until_ready(state)

    first, _ = timed(lambda: go(1))
    clock, cpu = timed(lambda: go(chunks))
    steps = runs * chunks * preset.plan.chunk
    return {
        "tool": f"lab, {name}, {runs} at once",
        "rule": name,
        "tokens_per_second": preset.plan.tokens * steps / clock,
        "tokens_per_cpu_second": preset.plan.tokens * steps / cpu,
        "cpu_seconds_per_step": cpu / steps,
        "seconds_to_first_step": first - clock / chunks,
    }


def of_torch(preset, steps: int) -> dict[str, Any] | None:
    """The torch trainer's step; None where torch is not installed."""
    sys.path.append(str(TRAINING))
    try:
        import torch
        import torch.nn.functional as F
        from train_olmoe import build_model, encode, per_layer_auxiliary_loss
    except ImportError:
        return None
    shape, plan = preset.shape, preset.plan
    torch.manual_seed(0)
    model = build_model(
        shape.experts, shape.top_k, shape.layers, shape.width, shape.hidden, alpha=0.01
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    rows = plan.micro_batches * plan.batch
    data = encode(read_corpus().training[0].tobytes())

    def go(count: int) -> None:
        for step in range(count):
            at = [(step * rows + row) * plan.length for row in range(rows)]
            tokens = torch.stack([data[a : a + plan.length] for a in at])
            result = model(input_ids=tokens, output_router_logits=True, use_cache=False)
            loss = F.cross_entropy(result.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
            auxiliary, _, _ = per_layer_auxiliary_loss(result.router_logits, shape.top_k)
            (loss + 0.01 * auxiliary).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()

    go(3)
    clock, cpu = timed(lambda: go(steps))
    return {
        "tool": f"torch {torch.__version__} trainer, {torch.get_num_threads()} threads",
        "rule": "auxiliary",
        "tokens_per_second": plan.tokens * steps / clock,
        "tokens_per_cpu_second": plan.tokens * steps / cpu,
        "cpu_seconds_per_step": cpu / steps,
        "seconds_to_first_step": None,
    }


def cost_of(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Training of a preset in CPU minutes, from the seconds per step of its rules; measuring is extra."""
    preset = read_preset(name, RULES)
    per_step = {
        row["rule"]: row["cpu_seconds_per_step"] for row in rows if "at once" in row["tool"]
    }
    usual = float(np.median(list(per_step.values())))
    seconds = sum(per_step.get(arm.rule, usual) for arm in preset.arms)
    return {
        "preset": name,
        "arms": len(preset.arms),
        "seeds": preset.seeds,
        "cpu_minutes": seconds * preset.seeds * preset.plan.steps / 60,
    }


def markdown(record: dict) -> str:
    """Speed beside the torch trainer's, and what the presets take."""
    torch = next((r for r in record["rows"] if r["tool"].startswith("torch")), None)

    def beside(row: dict) -> str:
        if torch is None:
            return "-"
        return f"{row['tokens_per_cpu_second'] / torch['tokens_per_cpu_second']:.2f}"

    columns = {
        "one step of": "tool",
        "tokens a second": "{tokens_per_second:,.0f}",
        "tokens a CPU second": "{tokens_per_cpu_second:,.0f}",
        "of torch's": beside,
    }
    costs = "; ".join(
        f"`{c['preset']}` {c['cpu_minutes']:.0f} CPU minutes ({c['arms']} arms, {c['seeds']} seeds)"
        for c in record["costs"]
    )
    return (
        f"{table(record['rows'], columns)}\n\nTraining, from seconds per step: {costs}. Measuring a run takes about "
        "a second more."
    )


def main(
    json_path: JsonFile = None,
    chunks: Annotated[int, typer.Option(min=1, help="Chunks of steps that are timed.")] = 1,
    rules: Annotated[str, typer.Option(help="Timed besides, joined by commas.")] = (
        "none,leaky,quantile,bip,sinkhorn,expert-choice,hold-violation"
    ),
    at_once: Annotated[str, typer.Option(help="Runs of the auxiliary rule together.")] = "1,3",
) -> None:
    """One row per tool or rule."""
    console = Console()
    preset = read_preset("quick", RULES)
    torch_row = of_torch(preset, 40)
    rows = [torch_row] if torch_row else []
    wanted = [("auxiliary", int(runs)) for runs in at_once.split(",")]
    wanted += [(name, 3) for name in rules.split(",") if name]
    for name, runs in wanted:
        rows.append(of_rule(name, preset, runs, chunks))
        console.print_json(data=rows[-1])
    costs = [cost_of(name, rows) for name in ("quick", "full")]
    console.print_json(data=costs)
    keep(json_path, markdown, rows=rows, costs=costs)


if __name__ == "__main__":
    typer.run(main)
