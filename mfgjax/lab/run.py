"""Train and measure every arm of a preset into a folder; a run that was cut off goes on."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mfgjax.lab.corpus import Corpus, HeldOut, held_out_text, read_corpus
from mfgjax.lab.folder import (
    LabError,
    arms_in,
    device_here,
    gather,
    prepared,
    run_folder,
    sole_use,
)
from mfgjax.lab.measure import measure_run
from mfgjax.lab.model import wrong_choices
from mfgjax.lab.preset import Arm, Preset
from mfgjax.lab.rule import Rule
from mfgjax.lab.rules import RULES
from mfgjax.lab.store import (
    joined,
    read_state,
    trace_of,
    write_checkpoint,
    write_json,
    write_state,
)
from mfgjax.lab.train import Record, State, Trainer, available_memory, memory_of

WRONG = "the rule chose what is no expert, or one expert twice for a token."


class Progress(NamedTuple):
    """Attributes:
    rule: whose runs are at work.
    done, total: run-steps of the whole lab.
    step: of these runs.
    loss: mean cross-entropy of the last step.
    max_violation: mean MaxVio of the last step, over runs and layers.
    """

    rule: str
    done: int
    total: int
    step: int
    loss: float
    max_violation: float


@dataclasses.dataclass(frozen=True)
class Batch:
    """Runs of one rule that are trained at once, and where their state is."""

    rule: str
    runs: tuple[tuple[Arm, int], ...]
    path: Path


def run_lab(
    preset: Preset,
    out: Path,
    *,
    rules: Mapping[str, Rule] = RULES,
    at_once: int = 0,
    measure: bool = True,
    progress: Callable[[Progress], None] = lambda _: None,
    measured: Callable[[str, int], None] = lambda arm, seed: None,
) -> dict[str, Any]:
    """Train, trace and measure; returns what is in `results.json`.

    Args:
        preset: what to train.
        out: folder, new, or one of the same models and text, which the runs that it lacks are added to.
        rules: by name.
        at_once: runs trained together at most; 0 for the seeds of one arm on a CPU, where more together
            are slower, and elsewhere for as many as fit into memory.
        measure: whether to measure what is trained; without, results hold what was measured before.
        progress: told after every chunk of steps.
        measured: told after every run that was measured.

    Raises:
        ValueError: a folder of other models or another text, or one that another process works in; a rule whose
            functions return wrong shapes; a preset that does not fit into memory.
        LabError: a loss that is no number, a choice that is no expert, a choice that the kernel of a
            dropless run had no place for, or a full disk.
    """
    with sole_use(out):
        corpus = read_corpus()
        size = preset.plan.length + 1
        text = held_out_text(corpus, preset.held_out, size)
        made = prepared(out, preset, corpus, rules)
        trainers = {
            name: Trainer(preset.shape, preset.plan, rules[name]) for name in _rules(preset)
        }
        if jax.default_backend() == "cpu":
            at_once = at_once or preset.seeds
        total = preset.plan.steps * preset.seeds * len(preset.arms)
        done = 0

        def together(rule: str, runs: int) -> int:
            return fitting(trainers[rule], runs, at_once)

        for batch in batches(preset, out, made, together):
            trainer = trainers[batch.rule]

            def tell(step: int, record: Record, batch=batch, done=done) -> None:
                last = record.counts[:, -1].astype(float)
                violation = last.shape[-1] * last.max(-1) / last.sum(-1) - 1
                progress(
                    Progress(
                        batch.rule,
                        done + step * len(batch.runs),
                        total,
                        step,
                        float(record.loss[:, -1].mean()),
                        float(violation.mean()),
                    )
                )

            finish_batch(trainer, batch, corpus, text, preset, out, tell, measured, measure)
            done += preset.plan.steps * len(batch.runs)
        return gather(out, made)


def _rules(preset: Preset) -> list[str]:
    return list(dict.fromkeys(arm.rule for arm in preset.arms))


def batches(
    preset: Preset, out: Path, made: dict[str, Any], at_once: Callable[[str, int], int]
) -> Iterator[Batch]:
    """Runs of each rule in batches. A folder keeps its batches; new runs make new ones.

    Args:
        preset, out: of the lab.
        made: what `preset.json` holds, or will.
        at_once: from a rule and a number of runs, how many of them make a batch.
    """
    arms, kept = arms_in(made), made["batches"]
    for rule in _rules(preset):
        own = [arm.name for arm in preset.arms if arm.rule == rule]
        runs = [(name, seed) for name in own for seed in range(preset.seeds)]
        held = {(name, seed) for part in kept.values() for name, seed in part}
        new = [run for run in runs if run not in held]
        if new:
            size = at_once(rule, len(new))
            last = sum(name.rpartition("-")[0] == rule for name in kept)
            for number, start in enumerate(range(0, len(new), size), last):
                kept[f"{rule}-{number}"] = [list(run) for run in new[start : start + size]]
            write_json(out / "preset.json", made)
        for name, part in kept.items():
            if any((arm, seed) in runs for arm, seed in part):
                placed = tuple((arms[arm], seed) for arm, seed in part)
                yield Batch(rule, placed, out / "states" / f"{name}.safetensors")


def fitting(trainer: Trainer, runs: int, at_once: int) -> int:
    """How many of so many runs fit into memory at once, by what XLA says that it will use.

    Raises:
        ValueError: not one does.
    """
    size, free = min(runs, at_once or runs), available_memory()
    while True:
        need = memory_of(trainer, size)
        if free is None or need <= free:
            return size
        if size == 1:
            raise ValueError(
                f"one run needs {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: make the preset "
                "smaller (width, experts, hidden, batch or length)"
            )
        size = max(1, min(size - 1, int(size * free / need)))


def finish_batch(
    trainer: Trainer,
    batch: Batch,
    corpus: Corpus,
    text: HeldOut,
    preset: Preset,
    out: Path,
    tell: Callable[[int, Record], None] = lambda step, record: None,
    measured: Callable[[str, int], None] = lambda arm, seed: None,
    measure: bool = True,
) -> None:
    """Train a batch from where it stopped, and measure the runs that were not."""
    state, history = train_batch(trainer, batch, corpus, text, preset, out, tell)
    state = jax.device_get(state) if measure else state
    for place, (arm, seed) in enumerate(batch.runs) if measure else ():
        path = run_folder(out, arm, seed) / "measures.json"
        if not path.exists():
            own, past = jax.tree.map(lambda leaf, place=place: leaf[place], (state, history))
            write_json(path, {"device": device_here(), **measure_run(trainer, own, past, text)})
        measured(arm.name, seed)


def train_batch(
    trainer: Trainer,
    batch: Batch,
    corpus: Corpus,
    text: HeldOut,
    preset: Preset,
    out: Path,
    tell: Callable[[int, Record], None],
) -> tuple[State, Record]:
    """The state after the last step and the record of all; from where the batch stopped."""
    plan = preset.plan
    state = trainer.start([(seed, dict(arm.settings)) for arm, seed in batch.runs])
    history, step = None, 0
    if batch.path.exists():
        state, history = read_state(batch.path, state)
        step = int(state.step[0])
    chunks = plan.steps // plan.chunk
    wanted = {round(x) * plan.chunk for x in np.linspace(0, chunks, preset.traces)}
    if step == 0:
        trace_batch(trainer, batch, state, text, out)
    while step < plan.steps:
        state, record = trainer.run_chunk(state, corpus.training, corpus.length)
        history = joined(history, record)
        refuse(batch, history, step, dropless=not trainer.rule.any_number)
        step += plan.chunk
        if step in wanted:
            trace_batch(trainer, batch, state, text, out)
        write_state(batch.path, state, history)
        tell(step, history)
    assert history is not None
    return state, history


def refuse(batch: Batch, history: Record, since: int, *, dropless: bool) -> None:
    """Raise `LabError` for the first step since `since` that a result must not rest on."""
    faults = [
        (
            ~np.isfinite(history.loss + history.penalty),
            "its loss is no number. Lower learning_rate, or look at the rule.",
        ),
        (history.wrong > 0, WRONG),
    ]
    if dropless:
        faults.append(
            (
                history.overflow > 0,
                "choices had no place, so it is not dropless. Raise capacity_factor.",
            )
        )
    for fault, meaning in faults:
        run, step = np.nonzero(fault[:, since:])
        if len(step):
            first = step.argmin()
            arm, seed = batch.runs[run[first]]
            raise LabError(
                f"arm {arm.name}, seed {seed}, step {since + step[first]}: {meaning} Everything before "
                f"step {since} is kept in {batch.path}."
            )


def trace_batch(trainer: Trainer, batch: Batch, state: State, text: HeldOut, out: Path) -> None:
    """One trace per run, of rules whose every token takes K experts."""
    if trainer.rule.any_number:
        return
    routed, state = jax.device_get((trainer.route(state, text.windows), state))
    for place, (arm, seed) in enumerate(batch.runs):
        own, one = jax.tree.map(lambda leaf, place=place: leaf[place], (state, routed))
        if wrong_choices(one.choices, trainer.shape.experts, any_number=False):
            raise LabError(f"arm {arm.name}, seed {seed}, step {own.step}: {WRONG}")
        trace = trace_of(trainer, own, one, text, f"{arm.name}/seed{seed}")
        write_checkpoint(run_folder(out, arm, seed), trace)
