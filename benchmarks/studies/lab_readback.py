"""How far up does γ_token, read from a text, follow the congestion that was set in training? Evaluation only.

    mfgjax lab run --preset grid --out runs/grid
    python -m benchmarks.studies.lab_readback --lab runs/grid

The models of the leaky price (`-congestion (load - 1/M)`, the load a running mean of training) route texts that they
were not trained on: held-out documents, as many windows of each domain as the lab's own and `MOST` times as many, and as
many of the training text, drawn as in training. More of a text takes sampling away; what is left on held-out documents
and not on the training text is that other documents load experts otherwise. The correlation is that, over experts, of
the load on the text with the load of the last training steps, which the price answers.

The same training text tells how even the routers of the controller, the sign rule and quantile balancing are at the last
step, beside the last steps together, in which the noise of single steps averages out. Writes
benchmarks/results/lab_{readback,instant}.{json,md}.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console

from benchmarks.record import RESULTS, Cell, environment, keep, table
from mfgjax.lab.corpus import HeldOut, draw_windows, held_out_text, read_corpus
from mfgjax.lab.differences import interval
from mfgjax.lab.folder import arms_in
from mfgjax.lab.measure import LAST
from mfgjax.lab.model import Shape
from mfgjax.lab.rules import RULES
from mfgjax.lab.store import read_state, trace_of
from mfgjax.lab.train import Plan, State, Trainer
from mfgjax.price import fit_token_congestion

FILE, INSTANT = RESULTS / "lab_readback.json", RESULTS / "lab_instant.json"
RULE, MOST = "leaky", 8
HELD = ("hold-violation", "sign", "quantile")


def texts_of(per_domain: int, length: int) -> dict[str, HeldOut]:
    """Held-out text of the lab's size and of `MOST` times it, and as much training text."""
    corpus = read_corpus()
    found = {
        f"held-out x {n}": held_out_text(corpus, n * per_domain, length + 1) for n in (1, MOST)
    }
    like = found[f"held-out x {MOST}"]
    drawn = draw_windows(
        jax.random.key(7),
        jnp.asarray(corpus.training),
        jnp.asarray(corpus.length),
        micro_batches=3,
        batch=MOST * per_domain,
        window=length + 1,
    )
    windows = np.asarray(drawn).reshape(like.windows.shape)
    return found | {f"training x {MOST}": like._replace(windows=windows, digest="training")}


def trained(lab: Path, rule: str) -> Iterator[tuple[Trainer, str, int, State, np.ndarray]]:
    """Trainer, arm, seed, last state and counts of the last steps of every run of a rule, seed by seed."""
    made = json.loads((lab / "preset.json").read_text())
    preset, arms = made["preset"], arms_in(made)
    trainer = Trainer(Shape(**preset["shape"]), Plan(**preset["plan"]), RULES[rule])
    for batch, runs in made["batches"].items():
        if arms[runs[0][0]].rule != rule:
            continue
        like = trainer.start([(seed, dict(arms[name].settings)) for name, seed in runs])
        state, history = read_state(lab / "states" / f"{batch}.safetensors", like)
        last = history.counts[:, -LAST:].sum(1)  # [run, layer, expert]
        for run in np.argsort([seed for _, seed in runs], kind="stable").tolist():
            own = jax.tree.map(lambda leaf, run=run: leaf[run], state)
            yield trainer, *runs[run], own, last[run]


def texts_for(lab: Path) -> dict[str, HeldOut]:
    """Texts of the lab's own size and length."""
    preset = json.loads((lab / "preset.json").read_text())["preset"]
    return texts_of(preset["held_out"], preset["plan"]["length"])


def read_back(lab: Path, rows: list[dict[str, Any]], keep: Callable[[], object]) -> None:
    """γ_token of every run on every text that `rows` lack, mean over layers."""
    arms = arms_in(json.loads((lab / "preset.json").read_text()))
    texts = texts_for(lab)
    known = {(row["congestion"], row["seed"], row["text"]) for row in rows}
    for trainer, arm, seed, state, last in trained(lab, RULE):
        dose = dict(arms[arm].settings)["congestion"]
        for name, text in texts.items():
            if (dose, seed, name) in known:
                continue
            _, routed = trainer.losses(state.params, state.price, text.windows)
            trace = trace_of(trainer, state, jax.device_get(routed), text, "read back")
            fits, alike = [], []
            for layer in range(trainer.shape.layers):
                fits.append(fit_token_congestion(trace, layer).congestion)
                chosen = trace.choices[:, layer].ravel()
                load = np.bincount(chosen, minlength=trainer.shape.experts)
                alike.append(np.corrcoef(load, last[layer])[0, 1])
            rows.append(
                {
                    "congestion": dose,
                    "seed": seed,
                    "text": name,
                    "tokens": len(trace.text),
                    "found": float(np.mean(fits)),
                    "alike": float(np.mean(alike)),
                }
            )
        keep()


def instant(lab: Path) -> list[dict[str, Any]]:
    """MaxVio of the last step's router on the training text, and of the last steps together; mean over layers."""
    text, rows = texts_for(lab)[f"training x {MOST}"], []
    for rule in HELD:
        for trainer, arm, seed, state, last in trained(lab, rule):
            _, routed = trainer.losses(state.params, state.price, text.windows)
            shape = trainer.shape
            hot = np.asarray(routed.choices)[..., None] == np.arange(shape.experts)
            together = shape.experts * last.max(-1) / last.sum(-1) - 1
            now = hot.sum((1, 2)).max(-1) * shape.experts / hot[0].sum() - 1
            row = {"arm": arm, "seed": seed, "now": now.mean(), "together": together.mean()}
            rows.append(
                {name: x if isinstance(x, str | int) else float(x) for name, x in row.items()}
            )
    return rows


def instant_markdown(rows: list[dict[str, Any]]) -> str:
    """One line per arm."""

    def over(arm: str, what: str) -> str:
        return interval([row[what] for row in rows if row["arm"] == arm]).text(2)

    columns: dict[str, str | Cell] = {
        "arm": "arm",
        f"MaxVio of the last {LAST} steps together": lambda r: over(r["arm"], "together"),
        "MaxVio of the last step's router": lambda r: over(r["arm"], "now"),
    }
    return (
        table([{"arm": arm} for arm in dict.fromkeys(row["arm"] for row in rows)], columns) + "\n"
    )


def markdown(rows: list[dict[str, Any]]) -> str:
    """One line per congestion, γ_token of each text and how alike the loads are."""
    texts = list(dict.fromkeys(row["text"] for row in rows))

    def over(dose: float, text: str, what: str):
        return interval([r[what] for r in rows if r["congestion"] == dose and r["text"] == text])

    tokens = {row["text"]: row["tokens"] for row in rows}
    columns: dict[str, str | Cell] = {"γ set": lambda r: f"{r['dose']:g}"}
    for text in texts:
        columns[f"γ_token, {text} ({tokens[text]:,} bytes)"] = lambda r, text=text: over(
            r["dose"], text, "found"
        ).text(1)
    for text in texts[-2:]:
        columns[f"correlation of loads, {text}"] = lambda r, text=text: over(
            r["dose"], text, "alike"
        ).text(2)
    doses = sorted({row["congestion"] for row in rows})
    return table([{"dose": dose} for dose in doses], columns) + "\n"


def main(
    lab: Annotated[Path | None, typer.Option(help="Folder of `mfgjax lab run`.")] = None,
) -> None:
    """Read back what the results lack; without --lab the table is made again from what is kept."""
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []

    def keep_rows(path: Path = FILE, rows: list[dict[str, Any]] = rows) -> None:
        command = "python -m benchmarks.studies.lab_readback"  # without the folder of this machine
        keep(path, environment=environment() | {"command": command}, rows=rows)

    if lab is not None:
        read_back(lab, rows, keep_rows)
        keep_rows(INSTANT, instant(lab))
    held = json.loads(INSTANT.read_text())["rows"]
    INSTANT.with_suffix(".md").write_text(instant_markdown(held))
    text = markdown(rows)
    FILE.with_suffix(".md").write_text(text)
    Console(width=200).print(text, markup=False)


if __name__ == "__main__":
    typer.run(main)
