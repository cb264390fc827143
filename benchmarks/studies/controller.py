"""Does the controller hold its setpoint, with one setting, whatever the router? On simulated routers.

    python -m benchmarks.studies.controller

A router without training: independent Gaussian logits, means and spreads of their own per expert, top-K of
logits plus bias. Every rule sees the same draws. The load a bias leads to is known but for a small error: given
the other experts' logits the chance of being chosen is a normal probability, averaged over fixed tokens. So MaxVio
here is that of the population, without a sampling floor. After 200 steps some routers are shocked: the busiest
expert's mean is reset, all means are drawn anew, or the batch shrinks to a quarter. Writes
benchmarks/results/controller.{json,md}; conditions that the results hold already are not computed again.
"""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console

from benchmarks.environment import environment
from benchmarks.tables import Cell, table
from mfgjax.lab.controller import Held, cap_load, set_congestion
from mfgjax.lab.rule import count_choices
from mfgjax.lab.rules.dual import quantile_pass

RESULTS = Path(__file__).parents[1] / "results" / "controller.json"
SETPOINT, CONGESTION = 0.3, 20.0
STEPS, EVERY, TOKENS, JUDGES = 200, 10, 4096, 2048
CLOSE = 0.1
SIGN_STEPS = (1e-3, 1e-2, 5e-2)
SHAPES = [(8, 1), (8, 2), (16, 4), (32, 2), (64, 1), (64, 8), (128, 8), (256, 1), (256, 8)]
CONDITIONS = [
    *((m, k, 1.0, 1.0) for m, k in SHAPES),
    *((64, 8, scale, 1.0) for scale in (0.3, 3.0)),
    *((64, 8, 1.0, batch) for batch in (0.25, 4.0)),
    *((16, 4, scale, 1.0) for scale in (0.3, 3.0)),
    (256, 8, 1.0, 0.25),
    (256, 1, 1.0, 4.0),
]
SHOCKED = {(16, 4, 1.0, 1.0), (64, 8, 1.0, 1.0), (64, 1, 1.0, 1.0)}
RULES = ("cap", "congestion", *(f"sign {u:g}" for u in SIGN_STEPS), "quantile")


def choose(logits, bias, top_k):
    return jax.lax.top_k(logits + bias[None], top_k)[1]


def population_load(noise, mean, spread, bias, top_k):
    """Load of a bias: chance of each expert given the others' logits, averaged over tokens."""
    total = mean[None] + spread[None] * noise + bias[None]
    top = jax.lax.top_k(total, top_k + 1)[0]
    chosen = total >= top[:, -2:-1]
    # the K-th largest of the others
    edge = jnp.where(chosen, top[:, -1:], top[:, -2:-1])
    chance = jax.scipy.stats.norm.cdf((mean[None] + bias[None] - edge) / spread[None])
    load = chance.mean(0)
    return load / load.sum()


@partial(jax.jit, static_argnames=("top_k", "tokens"))
def follow(key, start, mean, spread, scale, top_k: int, tokens: int):
    """Last biases and gains, and the biases of every rule over `STEPS` steps, `[step, rule, expert]`."""
    experts = len(mean)

    def step(carry, number):
        bias, gains = carry
        noise = jax.random.normal(jax.random.fold_in(key, number), (tokens, experts), jnp.float32)
        logits = mean[None] + spread[None] * noise

        def one(own):
            return count_choices(choose(logits, own, top_k), experts)

        counts = [one(own) for own in bias]
        cap = cap_load(Held(bias[0], gains[0]), counts[0], logits, top_k, setpoint=SETPOINT)
        slope = Held(bias[1], gains[1])
        slope = set_congestion(slope, counts[1], logits, top_k, setpoint=scale * CONGESTION)
        moved = [cap.bias, slope.bias]
        for number, rate in enumerate(SIGN_STEPS, 2):
            short = jnp.sign(tokens * top_k / experts - counts[number].astype(jnp.float32))
            moved.append(bias[number] + rate * short)
        moved.append(quantile_pass(logits, bias[-1], top_k))
        moved = jnp.stack(moved)
        return (moved, jnp.stack([cap.gain, slope.gain])), moved

    return jax.lax.scan(step, start, jnp.arange(STEPS, dtype=jnp.int32))


def judged(path, mean, spread, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """MaxVio, and slope of the bias on the load, `[time, rule]`, every `EVERY` steps."""
    noise = jax.random.normal(jax.random.key(99), (JUDGES, len(mean)), jnp.float32)

    @jax.jit
    def measure(bias):
        load = population_load(noise, mean, spread, bias, top_k)
        centred = load - load.mean()
        slope = -(bias * centred).sum() / (centred**2).sum()
        return len(mean) * load.max() - 1, slope

    shown = path[EVERY - 1 :: EVERY]
    found = jax.lax.map(lambda biases: jax.lax.map(measure, biases), shown)
    return np.asarray(found[0], float), np.asarray(found[1], float)


def settled(values: np.ndarray, wanted: float, one_sided: bool = False) -> int | None:
    """First step from which all values are within `CLOSE` of what is wanted; None if not at the end."""
    good = values <= (1 + CLOSE) * wanted
    if not one_sided:
        good &= values >= (1 - CLOSE) * wanted
    bad = np.flatnonzero(~good)
    first = bad[-1] + 1 if len(bad) else 0
    return EVERY * (int(first) + 1) if first < len(values) else None


def run(condition: tuple[int, int, float, float]) -> dict[str, Any]:
    """One router, and its shocks if it has them."""
    experts, top_k, scale, batch = condition
    draw = np.random.default_rng((experts, top_k, int(100 * scale)))
    mean = 0.5 * scale * draw.standard_normal(experts).astype(np.float32)
    spread = scale * draw.uniform(0.7, 1.3, experts).astype(np.float32)
    tokens = int(batch * TOKENS)
    start = jnp.zeros((len(RULES), experts), jnp.float32), jnp.ones(2, jnp.float32)
    args = jnp.float32(scale), top_k
    last, path = follow(jax.random.key(0), start, mean, spread, *args, tokens=tokens)
    violation, slope = judged(path, mean, spread, top_k)
    at_rest, _ = judged(jnp.zeros((EVERY, len(RULES), experts), jnp.float32), mean, spread, top_k)
    row: dict[str, Any] = {
        "experts": experts,
        "top_k": top_k,
        "scale": scale,
        "tokens": tokens,
        "start": float(at_rest[0, 0]),
        "cap_settled": settled(violation[:, 0], SETPOINT),
        "cap_end": float(violation[-5:, 0].mean()),
        "congestion_settled": settled(slope[:, 1] / scale, CONGESTION),
        "congestion_end": float(slope[-5:, 1].mean() / scale),
        "below": {
            name: settled(violation[:, i], SETPOINT, one_sided=True)
            for i, name in enumerate(RULES)
            if name != "congestion"
        },
        "end": {name: float(violation[-5:, i].mean()) for i, name in enumerate(RULES)},
        "largest_late": {name: float(violation[-5:, i].max()) for i, name in enumerate(RULES)},
    }
    if condition in SHOCKED:
        row["shocks"] = shocks(last, mean, spread, scale, top_k, tokens)
    return row


def shocks(last, mean, spread, scale: float, top_k: int, tokens: int) -> dict[str, Any]:
    """Steps back to the setpoint (of rules without one: below it), and the largest MaxVio on the way."""
    draw = np.random.default_rng(7)
    reset = np.array(mean)
    reset[np.argmax(mean)] = -1.0 * scale
    other = 0.5 * scale * draw.standard_normal(len(mean)).astype(np.float32)
    kinds = {
        "expert reset": (reset, tokens),
        "domain switch": (other, tokens),
        "batch to a quarter": (mean, tokens // 4),
    }
    found = {}
    for name, (means, size) in kinds.items():
        key = jax.random.key(1)
        _, path = follow(key, last, means, spread, jnp.float32(scale), top_k, tokens=size)
        violation, _ = judged(path, means, spread, top_k)
        found[name] = {
            rule: {
                "steps": settled(violation[:, i], SETPOINT, one_sided=rule != "cap"),
                "largest": float(violation[:, i].max()),
            }
            for i, rule in enumerate(RULES)
            if rule != "congestion"
        }
    return found


def markdown(rows: list[dict[str, Any]]) -> str:
    """Two tables: setpoints, and shocks."""

    def told(step: int | None) -> str:
        return "not" if step is None else str(step)

    columns: dict[str, str | Cell] = {
        "M": "experts",
        "K": "top_k",
        "scale of logits": lambda r: f"{r['scale']:g}",
        "tokens": lambda r: f"{r['tokens']:,}",
        "MaxVio without": lambda r: f"{r['start']:.2f}",
        f"cap {SETPOINT}: settled at step": lambda r: told(r["cap_settled"]),
        "at the end": lambda r: f"{r['cap_end']:.3f}",
        f"congestion {CONGESTION:g}: settled": lambda r: told(r["congestion_settled"]),
        "at the end ": lambda r: f"{r['congestion_end']:.1f}",
    }
    for name in RULES:
        if name != "congestion":
            columns[f"below {SETPOINT}: {name}"] = lambda r, name=name: told(r["below"][name])
    cap = sum(r["cap_settled"] is not None for r in rows)
    congestion = sum(r["congestion_settled"] is not None for r in rows)
    parts = [
        f"Within 10% of the setpoint from some step to step {STEPS}: MaxVio {cap} of {len(rows)} routers, "
        f"congestion {congestion} of {len(rows)} (times the scale of the logits). Rules without a setpoint: first step "
        f"from which MaxVio is below 1.1 x {SETPOINT}.",
        table(rows, columns),
    ]
    lines = [
        {"router": f"M = {r['experts']}, K = {r['top_k']}", "shock": shock}
        | {rule: f"{told(v['steps'])} ({v['largest']:.2f})" for rule, v in found.items()}
        for r in rows
        for shock, found in r.get("shocks", {}).items()
    ]
    if lines:
        parts.append("Steps back after a shock, and the largest MaxVio on the way:")
        parts.append(table(lines, {name: name for name in lines[0]}))
    return "\n\n".join(parts) + "\n"


def main(
    json_path: Annotated[
        Path, typer.Option("--json", help="Results, kept and added to.")
    ] = RESULTS,
) -> None:
    """Every condition that is not in the results yet, then the tables."""
    console = Console(width=200)
    rows: list[dict[str, Any]] = []
    if json_path.exists():
        rows = json.loads(json_path.read_text())["rows"]
    have = {(r["experts"], r["top_k"], r["scale"], r["tokens"]) for r in rows}
    for condition in CONDITIONS:
        if (*condition[:3], int(condition[3] * TOKENS)) in have:
            continue
        rows.append(run(condition))
        record = {"environment": environment(), "rows": rows}
        json_path.write_text(json.dumps(record, indent=1) + "\n")
        console.print_json(data=rows[-1])
    text = markdown(rows)
    json_path.with_suffix(".md").write_text(text)
    console.print(text)


if __name__ == "__main__":
    typer.run(main)
