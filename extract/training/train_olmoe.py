"""Train a small `OlmoeForCausalLM` and save checkpoints as a hub model would have them.

    python extract/training/train_olmoe.py --out runs/experts16 --experts 16 --top-k 4 --steps 15000
    python extract/training/train_olmoe.py --out runs/priced --balance leaky --gamma-schedule 0:20

Experts are balanced by an auxiliary loss, by a price whose slope on the load is set by hand (`leaky`;
`balance.py` has the rules), by the loss-free rule (`sign`), or not at all. Two departures
from the library's defaults, both for likeness with OLMoE-1B-7B:

* the auxiliary loss is taken **per layer**, `alpha * sum_l M sum_i f_li P_li` with `sum_i f_li = 1`.
  transformers pools the tokens of all layers before the product, which lets single layers
  collapse as long as their average is balanced;
* the router is initialised with std `0.02 sqrt(2048 / hidden)`, so that its logits have the
  scale (about 0.9) that the 2048-wide model starts from.

Tokens are bytes. A killed run resumes from its last checkpoint.
"""

import enum
import json
import math
import platform
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import transformers
import typer
from balance import Balance, gamma_at, move_prices, parse_schedule, price_row
from byte_tokens import byte_tokenizer, encode
from corpus import held_out_texts, split_corpus
from priced_olmoe import PricedOlmoeConfig, PricedOlmoeForCausalLM, PricedOlmoeRouter
from transformers import OlmoeConfig, OlmoeForCausalLM


class Spacing(enum.StrEnum):
    """Where the checkpoints are: most of them early, or all equally far apart."""

    EARLY = "early"
    EVEN = "even"


OLMOE_WIDTH = 2048
"""Hidden size of OLMoE-1B-7B, whose router logit scale the initialisation copies."""


def checkpoint_steps(steps: int, count: int, spacing: Spacing = Spacing.EARLY) -> list[int]:
    """`count` steps from 0 to `steps`: evenly, or a third up to 2% of training and then log-spaced."""
    if spacing is Spacing.EVEN:
        return [round(float(s)) for s in np.linspace(0, steps, count)]
    early = max(2, count // 3)
    dense = np.linspace(0, steps / 50, early)
    late = np.geomspace(steps / 50, steps, count - early + 1)[1:]
    return sorted({round(float(s)) for s in np.concatenate([dense, late])})


def build_model(
    experts: int,
    top_k: int,
    layers: int,
    hidden: int,
    intermediate: int,
    alpha: float,
    priced: bool = False,
) -> OlmoeForCausalLM:
    config = (PricedOlmoeConfig if priced else OlmoeConfig)(
        vocab_size=256,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        num_experts=experts,
        num_experts_per_tok=top_k,
        max_position_embeddings=1024,
        router_aux_loss_coef=alpha,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = (PricedOlmoeForCausalLM if priced else OlmoeForCausalLM)(config)
    model.set_experts_implementation("grouped_mm")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("mlp.gate.weight"):
                parameter.mul_(math.sqrt(OLMOE_WIDTH / hidden))
    return model


def per_layer_auxiliary_loss(
    logits: tuple[torch.Tensor, ...], top_k: int
) -> tuple[torch.Tensor, list[float], list[float]]:
    """`sum_l M sum_i f_li P_li` (1 per balanced layer), with max/mean load and logit std per layer."""
    total = logits[0].new_zeros(())
    imbalance, dispersion = [], []
    for z in logits:
        probability = z.float().softmax(-1)
        chosen = z.topk(top_k, dim=-1).indices
        experts = z.shape[-1]
        load = torch.bincount(chosen.flatten(), minlength=experts) / chosen.numel()
        total = total + experts * (load * probability.mean(0)).sum()
        imbalance.append(float(load.max() * experts))
        dispersion.append(float(z.detach().var(0).mean().sqrt()))
    return total, imbalance, dispersion


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a cosine to 10% of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def batch(data: torch.Tensor, step: int, seed: int, size: int, length: int) -> torch.Tensor:
    """Training windows of one step, a function of `(seed, step)` alone: a resumed run sees the same."""
    draw = np.random.default_rng((seed, step))
    starts = draw.integers(0, len(data) - length, size=size)
    return torch.stack([data[s : s + length] for s in starts])


@torch.no_grad()
def held_out_loss(model: OlmoeForCausalLM, tokens: torch.Tensor) -> float:
    model.eval()
    logits = model(input_ids=tokens, use_cache=False).logits
    model.train()
    return float(F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()))


def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and log.jsonl.")],
    experts: Annotated[int, typer.Option(help="Experts per layer, M.")] = 64,
    top_k: Annotated[int, typer.Option(help="Experts per token, K.")] = 8,
    layers: int = 4,
    hidden: int = 128,
    intermediate: Annotated[int, typer.Option(help="Hidden size of one expert.")] = 32,
    balance: Annotated[Balance, typer.Option(help="What keeps the load even.")] = Balance.AUXILIARY,
    alpha: Annotated[
        float, typer.Option(help="Auxiliary loss coefficient, per layer (--balance auxiliary).")
    ] = 0.01,
    gamma_schedule: Annotated[
        str, typer.Option(help='gamma as "step:gamma,...", piecewise linear (--balance leaky).')
    ] = "0:0",
    load_rate: Annotated[
        float, typer.Option(help="Rate of the load average that the price follows.")
    ] = 0.05,
    steps: int = 20_000,
    checkpoints: int = 20,
    spacing: Annotated[Spacing, typer.Option(help="Where the checkpoints are.")] = Spacing.EARLY,
    batch_size: int = 8,
    length: Annotated[int, typer.Option(help="Tokens per training window.")] = 128,
    peak_lr: float = 3e-3,
    warmup: int = 200,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Train, saving `out/step<N>-tokens<T>/` through `save_pretrained`."""
    if balance is not Balance.AUXILIARY:
        alpha = 0.0
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items()}
    schedule = parse_schedule(gamma_schedule)
    if balance is not Balance.LEAKY and schedule[1].any():
        raise SystemExit(f"--gamma-schedule sets the price of --balance leaky, not of {balance}")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    describe_run(out, settings)
    tokenizer = byte_tokenizer()
    train_bytes, _ = split_corpus()
    data = encode(train_bytes)
    held_out = torch.stack([encode(t.encode()) for t in held_out_texts(50, 96)])
    priced = balance in (Balance.LEAKY, Balance.SIGN)
    model = build_model(experts, top_k, layers, hidden, intermediate, alpha, priced)
    routers = [m for m in model.modules() if isinstance(m, PricedOlmoeRouter)]
    decay = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak_lr, betas=(0.9, 0.95), fused=True)
    first = resume(out, model, optimizer)
    wanted = set(checkpoint_steps(steps, checkpoints, spacing))
    started = time.monotonic()
    with (out / "log.jsonl").open("a") as log:
        for step in range(first, steps + 1):
            if step in wanted:
                save(out, model, tokenizer, optimizer, step, step * batch_size * length)
                if routers:
                    print(json.dumps(price_row(routers, gamma_at(schedule, step), step)), file=log)
            if step in wanted or step % 100 == 0:
                loss = held_out_loss(model, held_out)
                print(
                    json.dumps({"step": step, "held_out_loss": round(loss, 4)}),
                    file=log,
                    flush=True,
                )
            if step == steps:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, peak_lr, warmup)
            tokens = batch(data, step, seed, batch_size, length)
            result = model(input_ids=tokens, output_router_logits=True, use_cache=False)
            cross_entropy = F.cross_entropy(
                result.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
            )
            auxiliary, imbalance, dispersion = per_layer_auxiliary_loss(result.router_logits, top_k)
            (cross_entropy + alpha * auxiliary if alpha else cross_entropy).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            move_prices(routers, balance, gamma_at(schedule, step), load_rate)
            if step % 20 == 0:
                row = {
                    "step": step,
                    "loss": round(cross_entropy.item(), 4),
                    "auxiliary": round(auxiliary.item() / layers, 4),
                    "max_over_mean_load": [round(x, 2) for x in imbalance],
                    "logit_std": [round(x, 3) for x in dispersion],
                    "seconds": round(time.monotonic() - started, 1),
                }
                if routers:
                    row |= price_row(routers, gamma_at(schedule, step), step)
                print(json.dumps(row), file=log, flush=True)


def describe_run(out: Path, settings: dict) -> None:
    """`run.json`: how to make this run again."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    options = [f"--{name.replace('_', '-')} {value}" for name, value in settings.items()]
    run = {
        "command": " ".join(["python extract/training/train_olmoe.py", *options]),
        "settings": settings,
        "versions": versions,
        "device": "cpu",
    }
    (out / "run.json").write_text(json.dumps(run, indent=1) + "\n")


def save(out, model, tokenizer, optimizer, step: int, tokens: int) -> None:
    folder = out / f"step{step}-tokens{tokens}"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    partial = out / "latest.pt.partial"
    torch.save(state, partial)
    partial.replace(out / "latest.pt")


def resume(out: Path, model, optimizer) -> int:
    latest = out / "latest.pt"
    if not latest.exists():
        return 0
    state = torch.load(latest, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


if __name__ == "__main__":
    typer.run(train)
