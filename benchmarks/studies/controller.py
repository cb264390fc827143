"""Does the controller hold its setpoint, with one setting, whatever the router? On simulated routers.

    python -m benchmarks.studies.controller

A router without training: independent Gaussian logits, means and spreads of their own per expert, top-K of
logits plus bias. Every rule sees the same draws. The load a bias leads to is known, by one integral per expert
(`known_load`): MaxVio here is that of the population, without a sampling floor. The controller's constants may be
chosen with the routers in `CHOOSING`; those in `JUDGING` have other shapes and other draws, and are for the verdict.
After 200 steps some routers are shocked: the busiest expert's mean is reset, all means are drawn anew, or the batch
shrinks to a quarter. Writes benchmarks/results/controller.{json,md}; routers that the results hold already are not
computed again. First the cap alone on every router, then, with `--compare`, the other rules beside it and the shocks.
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
from scipy.stats import norm

from benchmarks.record import RESULTS, keep, table
from mfgjax.lab.controller import cap_load, set_congestion, start_holding
from mfgjax.lab.rule import count_choices
from mfgjax.lab.rules.dual import quantile_pass

FILE = RESULTS / "controller.json"
SETPOINT, CONGESTION = 0.3, 20.0
STEPS, EVERY, TOKENS = 200, 10, 4096
CLOSE = 0.1
SIGN_STEPS = (1e-3, 1e-2, 5e-2)
CHOOSING = [
    (8, 1, 1.0, 1.0),
    (16, 4, 1.0, 1.0),
    (32, 2, 1.0, 1.0),
    (64, 1, 1.0, 1.0),
    (256, 1, 1.0, 1.0),
]
"""Experts, top-K, scale of the logits, batch over `TOKENS`."""
JUDGING = [
    *((m, k, 1.0, 1.0) for m, k in [(8, 3), (12, 2), (16, 1), (24, 4), (48, 1), (48, 6)]),
    *((32, 4, scale, 1.0) for scale in (0.3, 3.0)),
    *((m, k, scale, 1.0) for m, k, scale in [(40, 1, 0.3), (64, 6, 3.0)]),
    *((m, k, 1.0, batch) for m, k, batch in [(64, 6, 0.25), (24, 2, 4.0)]),
    *((m, k, 1.0, 1.0) for m, k in [(96, 8), (128, 4), (256, 2)]),
]
SHOCKED = {(24, 4, 1.0, 1.0), (48, 6, 1.0, 1.0), (48, 1, 1.0, 1.0)}
OWN = ("cap",)
RULES = (*OWN, "congestion", *(f"sign {u:g}" for u in SIGN_STEPS), "quantile")


def choose(logits, bias, top_k):
    return jax.lax.top_k(logits + bias[None], top_k)[1]


def known_load(mean, spread, bias, top_k: int, points: int = 96) -> np.ndarray:
    """Load of every bias in `[case, expert]`, by the trapezoid rule: to 1e-6 of 1/M.

    An expert is chosen if fewer than K of the others are above it. Given its own logit x, how many are is a sum of
    independent coins; its distribution up to K - 1 is that of the experts before it and of those after it, convolved.
    """
    total = mean + bias
    low, high = (total - 6 * spread).min(), (total + 6 * spread).max()
    x = np.linspace(low, high, points)[:, None]
    score = (x - total[:, None]) / spread  # [case, point, expert]
    above, density = norm.sf(score), norm.pdf(score) / spread

    def counted(order):
        """Distribution of how many of the experts earlier in `order` are above x, `[expert][case, point, number]`."""
        number = np.zeros((*above.shape[:2], top_k))
        number[..., 0] = 1
        found = {}
        for expert in order:
            found[expert] = number
            chance = above[..., expert, None]
            risen = np.concatenate([np.zeros_like(chance), number[..., :-1]], axis=-1)
            number = number * (1 - chance) + risen * chance
        return found

    experts = len(mean)
    before, after = counted(range(experts)), counted(reversed(range(experts)))
    fewer = [(before[j] * np.cumsum(after[j], axis=-1)[..., ::-1]).sum(-1) for j in range(experts)]
    load = np.trapezoid(density * np.stack(fewer, axis=-1), x[:, 0], axis=1)
    return load / load.sum(1, keepdims=True)


@partial(jax.jit, static_argnames=("top_k", "tokens"))
def follow(key, start, mean, spread, scale, top_k: int, tokens: int):
    """Last biases and states, and the biases of every rule over `STEPS` steps, `[step, rule, expert]`."""
    experts = len(mean)

    def step(carry, number):
        bias, cap, slope = carry
        noise = jax.random.normal(jax.random.fold_in(key, number), (tokens, experts), jnp.float32)
        logits = mean[None] + spread[None] * noise

        def one(own):
            return count_choices(choose(logits, own, top_k), experts)

        if len(bias) == len(OWN):
            cap = cap_load(cap, one(bias[0]), logits, top_k, setpoint=SETPOINT)
            return (cap.bias[None], cap, slope), cap.bias[None]
        counts = [one(own) for own in bias]
        cap = cap_load(cap, counts[0], logits, top_k, setpoint=SETPOINT)
        slope = set_congestion(slope, counts[1], logits, top_k, setpoint=scale * CONGESTION)
        moved = [cap.bias, slope.bias]
        for number, rate in enumerate(SIGN_STEPS, 2):
            short = jnp.sign(tokens * top_k / experts - counts[number].astype(jnp.float32))
            moved.append(bias[number] + rate * short)
        moved.append(quantile_pass(logits, bias[-1], top_k))
        moved = jnp.stack(moved)
        return (moved, cap, slope), moved

    return jax.lax.scan(step, start, jnp.arange(STEPS, dtype=jnp.int32))


def judged(path, mean, spread, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """MaxVio, and slope of the bias on the load, `[time, rule]`, every `EVERY` steps."""
    violation, slope = [], []
    for bias in np.asarray(path[EVERY - 1 :: EVERY], float):
        load = known_load(mean.astype(float), spread.astype(float), bias, top_k)
        centred = load - 1 / len(mean)
        violation.append(len(mean) * load.max(1) - 1)
        with np.errstate(invalid="ignore"):  # no slope where the load is even
            slope.append(-(bias * centred).sum(1) / (centred**2).sum(1))
    return np.stack(violation), np.stack(slope)


def settled(values: np.ndarray, wanted: float, one_sided: bool = False) -> int | None:
    """First step from which all values are within `CLOSE` of what is wanted; None if not at the end."""
    good = values <= (1 + CLOSE) * wanted
    if not one_sided:
        good &= values >= (1 - CLOSE) * wanted
    bad = np.flatnonzero(~good)
    first = bad[-1] + 1 if len(bad) else 0
    return EVERY * (int(first) + 1) if first < len(values) else None


def run(condition: tuple[int, int, float, float], rules: tuple[str, ...]) -> dict[str, Any]:
    """One router, and its shocks if it has them."""
    experts, top_k, scale, batch = condition
    seed = int(condition in JUDGING)
    draw = np.random.default_rng((experts, top_k, int(100 * scale), seed))
    mean = 0.5 * scale * draw.standard_normal(experts).astype(np.float32)
    spread = scale * draw.uniform(0.7, 1.3, experts).astype(np.float32)
    tokens = int(batch * TOKENS)
    start = jnp.zeros((len(rules), experts), jnp.float32), *(start_holding(experts),) * 2
    args = jnp.float32(scale), top_k
    last, path = follow(jax.random.key(seed), start, mean, spread, *args, tokens=tokens)
    violation, slope = judged(path, mean, spread, top_k)
    at_rest = known_load(mean.astype(float), spread.astype(float), np.zeros((1, experts)), top_k)
    row: dict[str, Any] = {
        "for": "choosing" if condition in CHOOSING else "judging",
        "experts": experts,
        "top_k": top_k,
        "scale": scale,
        "tokens": tokens,
        "start": float(experts * at_rest.max() - 1),
        "cap_settled": settled(violation[:, 0], SETPOINT),
        "cap_end": float(violation[-5:, 0].mean()),
        "below": {
            name: settled(violation[:, i], SETPOINT, one_sided=True)
            for i, name in enumerate(rules)
            if name != "congestion"
        },
        "end": {name: float(violation[-5:, i].mean()) for i, name in enumerate(rules)},
        "largest_late": {name: float(violation[-5:, i].max()) for i, name in enumerate(rules)},
    }
    if rules == OWN:
        return row
    row["congestion_settled"] = settled(slope[:, 1] / scale, CONGESTION)
    row["congestion_end"] = float(slope[-5:, 1].mean() / scale)
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
    """Tables of setpoints, for each set of routers, and of shocks."""

    def told(step: int | None) -> str:
        return "not" if step is None else str(step)

    columns = {
        "M": "experts",
        "K": "top_k",
        "scale of logits": lambda r: f"{r['scale']:g}",
        "tokens": lambda r: f"{r['tokens']:,}",
        "MaxVio without": lambda r: f"{r['start']:.2f}",
        f"cap {SETPOINT}: settled at step": lambda r: told(r["cap_settled"]),
        "at the end": lambda r: f"{r['cap_end']:.3f}",
        f"congestion {CONGESTION:g}: settled": lambda r: (
            told(r["congestion_settled"]) if "congestion_end" in r else "-"
        ),
        "at the end ": lambda r: f"{r['congestion_end']:.1f}" if "congestion_end" in r else "-",
    }
    for name in RULES:
        if name != "congestion":
            columns[f"below {SETPOINT}: {name}"] = lambda r, name=name: (
                told(r["below"][name]) if name in r["below"] else "-"
            )
    parts = []
    for purpose, title in (
        ("judging", "Judging"),
        ("choosing", "Choosing (not part of the verdict)"),
    ):
        own = [r for r in rows if r["for"] == purpose]
        if not own:
            continue
        cap = sum(r["cap_settled"] is not None for r in own)
        pulled = [r["congestion_settled"] for r in own if "congestion_end" in r]
        congestion = sum(step is not None for step in pulled)
        ends = [r["cap_end"] for r in own]
        parts.append(
            f"{title}. Within 10% of the setpoint from some step to step {STEPS}: MaxVio {cap} of {len(own)} routers, "
            f"congestion {congestion} of {len(pulled)} measured (times the scale of the logits). MaxVio at the end, the mean of "
            f"five readings: {min(ends):.3f} to {max(ends):.3f}, mean {np.mean(ends):.3f}. Rules without a setpoint: "
            f"first step from which MaxVio is below 1.1 x {SETPOINT}."
        )
        parts.append(table(own, columns))
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
    json_path: Annotated[Path, typer.Option("--json", help="Results, kept and added to.")] = FILE,
    compare: Annotated[
        bool, typer.Option(help="The other rules beside the cap, and the shocks.")
    ] = True,
) -> None:
    """Every router that is not in the results yet, then the tables."""
    console = Console(width=200)
    rows: list[dict[str, Any]] = []
    if json_path.exists():
        rows = json.loads(json_path.read_text())["rows"]
    done = {(r["experts"], r["top_k"], r["scale"], r["tokens"]): r for r in rows}
    for rules in (OWN, RULES) if compare else (OWN,):
        for condition in JUDGING + CHOOSING:
            name = (*condition[:3], int(condition[3] * TOKENS))
            if name in done and len(done[name]["end"]) >= len(rules):
                continue
            done[name] = run(condition, rules)
            keep(json_path, rows=list(done.values()))
            console.print_json(data=done[name])
    rows = list(done.values())
    text = markdown(rows)
    json_path.with_suffix(".md").write_text(text)
    console.print(text)


if __name__ == "__main__":
    typer.run(main)
