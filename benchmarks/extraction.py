"""Cost of watching a router: `python -m benchmarks.extraction --json FILE`.

A random OLMoE of hidden size 256 (4 layers, 64 experts, top-8) on the CPU or `--device`. Plain and
tapped forwards alternate in one process; the overhead is the median of the ratios of
neighbours, with its quartiles, of wall time and of the process's CPU time. On a shared machine
only CPU time says anything; it counts work that would run beside the model as if it did not.
Memory is the peak resident size while n texts are extracted, above the size before.
"""

import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import torch
import typer

from benchmarks.record import JsonFile, environment, keep, table
from mfgjax.trace import StatisticsStream, from_tensor
from mfgjax_extract import find_routers, tap_routers
from mfgjax_extract.checkpoint import Plan, extract_checkpoint
from mfgjax_extract.texts import EncodedTexts

BATCH, LENGTH = 8, 128


def build_model(device: str) -> torch.nn.Module:
    from transformers import OlmoeConfig, OlmoeModel

    config = OlmoeConfig(
        vocab_size=256,
        hidden_size=256,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        num_experts=64,
        num_experts_per_tok=8,
        pad_token_id=0,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model: Any = OlmoeModel(config)
    return model.to(device).eval()


def timed(run: Callable[[], Any], device: str) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def alternate(plain: Callable, other: Callable, device: str, repeats: int) -> dict:
    """Times of `plain` and `other`, run in turns (and in turned order), after two of each."""
    for _ in range(2):
        plain()
        other()
    base, changed = [], []
    for i in range(repeats):
        first, second = (plain, other) if i % 2 == 0 else (other, plain)
        pair = [timed(first, device), timed(second, device)]
        base.append(pair[i % 2])
        changed.append(pair[1 - i % 2])
    found: dict[str, Any] = {"repeats": repeats}
    for clock, name in enumerate(("wall", "cpu")):
        ratios = [b[clock] / a[clock] - 1 for a, b in zip(base, changed, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[name] = {
            "plain_seconds": statistics.median(a[clock] for a in base),
            "overhead": middle,
            "quartiles": [low, high],
        }
    return found


class RoutersOnly(torch.nn.Module):
    """The routers of `model` without the rest: what the tap adds is not lost in the noise of it."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.blocks = torch.nn.ModuleList()
        for router in find_routers(model):
            block = torch.nn.Module()
            block.gate, block.experts = router.module, _Sink()
            self.blocks.append(block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            assert isinstance(block.gate, torch.nn.Module) and isinstance(block.experts, _Sink)
            _, weights, index = block.gate(x)
            block.experts(x, index, weights)
        return x


class _Sink(torch.nn.Module):
    def forward(self, x, index, weights):
        return x


def own_work(model: torch.nn.Module, device: str, repeats: int) -> dict:
    """CPU seconds that the tap adds to one forward, measured on the routers alone."""
    routers = RoutersOnly(model).eval()
    x = torch.randn(BATCH * LENGTH, 256, device=device)
    tap = tap_routers(routers)

    def run():
        with torch.inference_mode():
            routers(x)

    def tapped():
        with tap:
            run()

    found = alternate(run, tapped, device, repeats)["cpu"]
    return {"routers_alone_seconds": found["plain_seconds"], "added": found["overhead"]}


def overhead(model: torch.nn.Module, device: str, repeats: int) -> list[dict]:
    """The tap alone; with JAX summing each batch; and with a recomputed router for comparison."""
    ids = torch.randint(1, 256, (BATCH, LENGTH), device=device)
    text = (torch.arange(BATCH * LENGTH, dtype=torch.int32) // LENGTH).to(device)
    stream = StatisticsStream(lambda _texts, _sums: None, copy=True)

    def forward():
        with torch.inference_mode():
            model(ids, use_cache=False)

    def tapped():
        with tap_routers(model):
            forward()

    def summed():
        with tap_routers(model) as tap:
            forward()
        assert tap.latest is not None
        layers = tap.latest.layers
        logits, choices = [x.logits for x in layers], [x.choices for x in layers]
        stream.add(range(BATCH), logits, choices, text)

    def recomputed():
        kept = []

        def note(gate, args):
            x = args[0].reshape(-1, args[0].shape[-1])
            kept.append((x @ gate.weight.T).topk(8).indices)

        gates = [r.module for r in find_routers(model)]
        handles = [gate.register_forward_pre_hook(note) for gate in gates]
        forward()
        for handle in handles:
            handle.remove()

    cases = {"tap": tapped, "tap + sums in JAX": summed, "hooks that recompute": recomputed}
    return [{"case": n, **alternate(forward, run, device, repeats)} for n, run in cases.items()]


def peak_resident(run: Callable[[], Any]) -> tuple[int, int]:
    """`(bytes before, peak bytes during)` of this process; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from the present size

    def read(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(x for x in lines if x.startswith(name)).split()[1])

    before = read("VmRSS")
    run()
    return before, read("VmHWM")


def memory(model: torch.nn.Module, counts: list[int]) -> list[dict]:
    """Extraction to disk of ever more texts: seconds, tokens per second, peak memory."""
    rows = []
    for count in counts:
        ids = [list(range(1, 129))] * count
        texts = EncodedTexts(ids, "sha256:benchmark", None)
        with tempfile.TemporaryDirectory() as folder:
            plan = Plan(Path(folder), "main", ("statistics",), {}, batch_tokens=BATCH * LENGTH)
            routers = find_routers(model)
            begun = time.perf_counter()
            before, peak = peak_resident(lambda: extract_checkpoint(model, routers, texts, plan))  # noqa: B023
            seconds = time.perf_counter() - begun
            size = sum(p.stat().st_size for p in Path(folder).iterdir())
        rows.append(
            {
                "texts": count,
                "tokens": texts.token_count,
                "tokens_per_second": texts.token_count / seconds,
                "peak_megabytes_above_start": (peak - before) / 2**20,
                "file_megabytes": size / 2**20,
            }
        )
    return rows


def handover(device: str, repeats: int) -> list[dict]:
    """64 MB from torch to JAX."""
    tensor = torch.randn(4096, 4096, device=device)
    ways = {
        "DLPack": lambda: from_tensor(tensor),
        "numpy": lambda: jnp.asarray(tensor.cpu().numpy()),
        "numpy, copied": lambda: jnp.array(tensor.cpu().numpy(), copy=True),
    }
    rows = []
    for name, way in ways.items():
        array = jax.block_until_ready(way())
        times = [timed(lambda w=way: jax.block_until_ready(w()), device)[0] for _ in range(repeats)]
        shared = array.unsafe_buffer_pointer() == tensor.data_ptr()
        rows.append({"way": name, "seconds": statistics.median(times), "memory_shared": shared})
    return rows


def markdown(record: dict) -> str:
    """The table of the docs."""
    columns = {
        "case": "case",
        "overhead, wall": "{wall[overhead]:+.1%}",
        "quartiles": lambda row: " to ".join(f"{q:+.1%}" for q in row["wall"]["quartiles"]),
        "overhead, CPU": "{cpu[overhead]:+.1%}",
    }
    own = record["own_work"]["share_of_forward"]
    memory = ", ".join(
        f"{row['peak_megabytes_above_start']:.1f} MB for {row['texts']} texts"
        for row in record["memory"]
    )
    return (
        f"{table(record['overhead'], columns)}\n\nThe tap's own work is {own:.2%} of a forward. "
        f"Peak memory above the start: {memory}."
    )


def main(
    json_path: JsonFile = None,
    repeats: Annotated[int, typer.Option(help="Pairs of forwards per case.")] = 40,
    device: str = "cpu",
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
) -> None:
    """Measure the tap, the extraction and the handover to JAX."""
    torch.set_num_threads(threads)
    record: dict[str, Any] = {}
    model = build_model(device)
    alone = own_work(model, device, 10 * repeats)
    record["overhead"] = overhead(model, device, repeats)
    whole = record["overhead"][0]["cpu"]["plain_seconds"]
    alone["share_of_forward"] = alone["added"] * alone["routers_alone_seconds"] / whole
    record["own_work"] = alone
    record["handover"] = handover(device, repeats)
    record["memory"] = memory(model, [64, 256, 1024])
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor()
    on = environment(("torch", "transformers", "jax", "numpy"))
    on |= {"device": f"{device} {name}".strip(), "torch_threads": threads, "dtype": "float32"}
    print(markdown(keep(json_path, markdown, environment=on, **record)))
    for row in record["handover"]:
        print(
            f"64 MB to JAX by {row['way']}: {1e3 * row['seconds']:.3f} ms, memory shared: {row['memory_shared']}"
        )


if __name__ == "__main__":
    typer.run(main)
