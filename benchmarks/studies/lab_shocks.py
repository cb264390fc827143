"""How soon is a router that trains back at its balance after a shock, and what does it cost?

    python -m benchmarks.studies.lab_shocks

Models of the grid's size train on code and prose for `BEFORE` steps. Then each goes on for `AFTER` steps four times:
undisturbed (the twin), with the busiest expert of every layer made anew (its weights, its router column and what the
optimiser kept of them; what the rule remembers stays), on tables alone, which it never saw, and with a quarter of the
batch. Balance is MaxVio of the load on `WINDOWS` windows of the text that is trained on, the same for every arm and
seed, so what sampling adds is the same too. A run is back at the first reading from which MaxVio stays within `CLOSE`
of the twin's mean. Seeds are paired: first weights and data are the same in every arm. Writes
benchmarks/results/lab_shocks.{json,md}; arms that the results hold already are not run again.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console

from benchmarks.record import RESULTS, Cell, keep, table
from mfgjax.lab.corpus import draw_windows, read_corpus
from mfgjax.lab.differences import difference
from mfgjax.lab.model import Shape
from mfgjax.lab.rules import RULES
from mfgjax.lab.train import Plan, State, Trainer

FILE = RESULTS / "lab_shocks.json"
SHAPE = Shape(experts=16, top_k=4, layers=2, width=32, hidden=16)
BEFORE, AFTER, EVERY = 150, 100, 5
PLAN = Plan(steps=BEFORE + AFTER, chunk=EVERY, batch=4, length=64, learning_rate=5e-3, warmup=20)
QUARTER = Plan(steps=BEFORE + AFTER, chunk=EVERY, batch=1, length=64, learning_rate=5e-3, warmup=20)
SEEDS, WINDOWS, CLOSE = 5, 60, 0.1
MIX, TABLES = [0, 1, 0], [2, 2, 2]
"""Domains of the three micro-batches."""
AGAINST = "none"
ARMS: dict[str, tuple[str, dict[str, float]]] = {
    AGAINST: ("none", {}),
    "hold-violation 0.1": ("hold-violation", {"setpoint": 0.1}),
    "sign 0.001": ("sign", {"step": 0.001}),
    "sign 0.01": ("sign", {"step": 0.01}),
    "sign 0.05": ("sign", {"step": 0.05}),
    "quantile": ("quantile", {}),
    "alpha 0.01": ("auxiliary", {"alpha": 0.01}),
    "alpha 0.1": ("auxiliary", {"alpha": 0.1}),
}
SHOCKS = ("expert reset", "domain switch", "batch to a quarter")
_EXPERT = re.compile(r"\['blocks'\].*?(\d+).*?'(router|gate|up|down)'")


def text_of(domains: list[int]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Training bytes, their lengths, and the windows that balance is read on."""
    corpus = read_corpus()
    rows, length = jnp.asarray(corpus.training[domains]), jnp.asarray(corpus.length[domains])
    windows = draw_windows(
        jax.random.key(99),
        rows,
        length,
        micro_batches=3,
        batch=WINDOWS // 3,
        window=PLAN.length + 1,
    )
    return rows, length, windows.reshape(WINDOWS, -1)


def read_balance(trainer: Trainer, state: State, windows: jax.Array) -> np.ndarray:
    """MaxVio of the load, `[run, layer]`, and the busiest expert."""
    choices = np.asarray(trainer.route(state, np.asarray(windows)).choices)
    hot = choices[..., None] == np.arange(SHAPE.experts)
    return hot.sum((2, 3)) / (choices.shape[2] * SHAPE.top_k) * SHAPE.experts - 1


def with_new_experts(state: State, busiest: np.ndarray) -> State:
    """The experts `busiest[run, layer]` and their router columns drawn again, their moments 0."""
    draw = np.random.default_rng(5)
    scale = {"router": 0.02 * (2048 / SHAPE.width) ** 0.5}

    def anew(path, leaf, moments: bool):
        found = _EXPERT.search(jax.tree_util.keystr(path))
        if found is None or leaf.ndim < 3:
            return leaf
        layer, name = int(found[1]), found[2]
        values = np.array(leaf)
        for run, expert in enumerate(busiest[:, layer]):
            at = (run, slice(None), expert) if name == "router" else (run, expert)
            fresh = scale.get(name, 0.02) * draw.standard_normal(values[at].shape)
            values[at] = 0 if moments else fresh
        return jnp.asarray(values)

    def renew(tree, moments: bool):
        return jax.tree_util.tree_map_with_path(lambda p, x: anew(p, x, moments), tree)

    return state._replace(params=renew(state.params, False), moments=renew(state.moments, True))


def copied(state: State) -> State:
    """A chunk of steps takes its state's memory; this one is kept."""
    return jax.tree.map(jnp.copy, state)


def follow(trainer: Trainer, state: State, text) -> tuple[np.ndarray, np.ndarray]:
    """MaxVio of `[reading, run]`, mean over layers, from before the first step on; loss of each step and run."""
    rows, length, windows = text
    readings, losses = [read_balance(trainer, state, windows)], []
    for _ in range(AFTER // EVERY):
        state, record = trainer.run_chunk(state, rows, length)
        losses.append(np.asarray(record.loss))
        readings.append(read_balance(trainer, state, windows))
    violation = np.stack(readings).max(-1).mean(-1)
    return violation, np.concatenate(losses, axis=1)


def back(violation: np.ndarray, home: float) -> int | None:
    """Steps to the first reading from which all are within `CLOSE` of home."""
    far = np.flatnonzero(violation > home + CLOSE)
    first = int(far[-1]) + 1 if len(far) else 0
    return EVERY * first if first < len(violation) else None


def run_rule(rule: str, arms: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Every arm of one rule, all seeds at once."""
    runs = [(seed, settings) for settings in arms.values() for seed in range(SEEDS)]
    whole, quarter = (Trainer(SHAPE, plan, RULES[rule]) for plan in (PLAN, QUARTER))
    mix, tables = text_of(MIX), text_of(TABLES)
    state = whole.start(runs)
    for _ in range(BEFORE // EVERY):
        state, _ = whole.run_chunk(state, mix[0], mix[1])
    busiest = read_balance(whole, state, mix[2]).argmax(-1)
    twin, twin_loss = follow(whole, copied(state), mix)
    home = twin.mean(0)
    shocked = {
        "expert reset": (whole, with_new_experts(copied(state), busiest), mix),
        "domain switch": (whole, copied(state), tables),
        "batch to a quarter": (quarter, copied(state), mix),
    }
    rows = []
    for shock, (trainer, start, text) in shocked.items():
        violation, loss = follow(trainer, start, text)
        for number, name in enumerate(arms):
            own = range(number * SEEDS, (number + 1) * SEEDS)
            rows.append(
                {
                    "arm": name,
                    "shock": shock,
                    "home": home[own].tolist(),
                    "steps": [back(violation[:, run], home[run]) for run in own],
                    "largest": violation[:, own].max(0).tolist(),
                    "end": violation[-5:, own].mean(0).tolist(),
                    "loss": loss[own].mean(1).tolist(),
                    "twin_loss": twin_loss[own].mean(1).tolist(),
                }
            )
    return rows


def _steps(row: dict[str, Any]) -> str:
    """Median over seeds, and range; more than `AFTER` where a run is not back. Without balance there is no back."""
    if row["arm"] == AGAINST:
        return "-"
    numbers = sorted(np.inf if step is None else step for step in row["steps"])

    def told(step: float) -> str:
        return f"{step:.0f}" if np.isfinite(step) else f"> {AFTER}"

    return f"{told(numbers[len(numbers) // 2])} ({told(numbers[0])} to {told(numbers[-1])})"


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table for each shock."""
    free = {row["shock"]: row for row in rows if row["arm"] == AGAINST}

    def cost(row: dict[str, Any]) -> str:
        if row["arm"] == AGAINST:
            return "-"
        own, other = (dict(enumerate(r["loss"])) for r in (row, free[row["shock"]]))
        return difference(own, other).text(4)

    columns: dict[str, str | Cell] = {
        "rule": "arm",
        "MaxVio of the twin": lambda r: f"{np.mean(r['home']):.2f}",
        "largest after the shock": lambda r: f"{np.mean(r['largest']):.2f}",
        "in the last 25 steps": lambda r: f"{np.mean(r['end']):.2f}",
        "steps back, median (range)": _steps,
        f"loss of the {AFTER} steps less that of {AGAINST}, nats": cost,
    }
    parts = []
    for shock in SHOCKS:
        parts.append(f"**{shock[0].upper()}{shock[1:]}.**")
        parts.append(table([row for row in rows if row["shock"] == shock], columns))
    return "\n\n".join(parts) + "\n"


def main(
    json_path: Annotated[Path, typer.Option("--json", help="Results, kept and added to.")] = FILE,
) -> None:
    """Every rule that is not in the results yet, then the tables."""
    console = Console(width=160)
    rows: list[dict[str, Any]] = []
    if json_path.exists():
        rows = json.loads(json_path.read_text())["rows"]
    for rule in dict.fromkeys(rule for rule, _ in ARMS.values()):
        arms = {name: settings for name, (own, settings) in ARMS.items() if own == rule}
        if set(arms) <= {row["arm"] for row in rows}:
            continue
        rows += run_rule(rule, arms)
        keep(json_path, seeds=SEEDS, rows=rows)
        console.print(f"{rule}: done")
    text = markdown(rows)
    json_path.with_suffix(".md").write_text(text)
    console.print(text, markup=False)


if __name__ == "__main__":
    typer.run(main)
