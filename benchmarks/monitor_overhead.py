"""Cost of watching a training run: `python -m benchmarks.monitor_overhead --json FILE`.

A random OLMoE of hidden size 128 (4 layers, 16 experts, top-4) is trained on the CPU. Steps without the
monitor, with it but not sampled, and sampled take turns; the overhead is the median of the ratios of
CPU times to that of the plain step beside it, with quartiles. At every = n a run costs the unsampled
overhead, and a share 1/n of the sampled one's excess over it.
"""

import statistics
import time
from typing import Any

import torch
import typer

from benchmarks.record import JsonFile, keep
from mfgjax.monitor import Monitor
from mfgjax_extract.watch import RoutingWatch

BATCH, LENGTH = 8, 128


def build_model() -> torch.nn.Module:
    from transformers import OlmoeConfig, OlmoeForCausalLM

    config = OlmoeConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_experts=16,
        num_experts_per_tok=4,
        pad_token_id=0,
        eos_token_id=None,
        output_router_logits=True,
    )
    torch.manual_seed(0)
    model: Any = OlmoeForCausalLM(config)
    return model


def measure(repeats: int) -> dict:
    """Overheads of unsampled and sampled steps over plain ones."""
    model = build_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(1, 256, (BATCH, LENGTH))

    def step(watch: RoutingWatch | None, number: int) -> float:
        start = time.process_time()
        if watch is not None:
            watch.begin_step(number)
        model(input_ids=ids, labels=ids).loss.backward()
        if watch is not None:
            watch.before_optimizer()
        optimizer.step()
        optimizer.zero_grad()
        if watch is not None:
            watch.end_step()
        return time.process_time() - start

    ratios: dict[str, list[float]] = {"not sampled": [], "sampled": []}
    for repeat in range(repeats + 1):
        plain = step(None, 0)
        watch = RoutingWatch(model, Monitor(), every=2)
        taken = {"sampled": step(watch, 2 * repeat), "not sampled": step(watch, 2 * repeat + 1)}
        watch.close()
        for name in ratios if repeat else ():  # the first is a warm-up
            ratios[name].append(taken[name] / plain - 1)
    rows = []
    for name, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        rows.append({"step": name, "overhead": middle, "quartiles": [low, high]})
    unsampled, sampled = rows[0]["overhead"], rows[1]["overhead"]
    return {"rows": rows, "at every = 100": unsampled + (sampled - unsampled) / 100}


def main(
    json_path: JsonFile = None,
    repeats: int = 30,
) -> None:
    """Measure, print, keep."""
    torch.set_num_threads(1)
    found = measure(repeats)
    for row in found["rows"]:
        print(
            f"{row['step']}: {row['overhead']:+.1%} ({row['quartiles'][0]:+.1%} to {row['quartiles'][1]:+.1%})"
        )
    print(f"at every = 100: {found['at every = 100']:+.2%}")
    keep(json_path, **found)


if __name__ == "__main__":
    typer.run(main)
