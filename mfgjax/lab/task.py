"""What runs on a node: one batch of a lab's runs, from its name to its files."""

import json
import os
import socket
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jax

from mfgjax.engines.claim import claimed
from mfgjax.engines.drive import Outcome, failure
from mfgjax.engines.shared_folder import Handover, NotShared
from mfgjax.lab.corpus import held_out_text, read_corpus
from mfgjax.lab.folder import is_measured
from mfgjax.lab.preset import preset_of
from mfgjax.lab.rule import blame, rule_of
from mfgjax.lab.rules import RULES
from mfgjax.lab.run import Batch, finish_batch
from mfgjax.lab.train import Trainer

THREADS = "NPROC"
"""How XLA is told the size of its pool; sums of large products are split over it, in their last bits."""


@dataclass(frozen=True)
class Task:
    """A batch, and all that a node needs to know.

    Attributes:
        batch: its runs, and where their state is.
        handover: where preset and rules are.
        threads: of XLA; None leaves them as they are.
        wait: for whoever holds the claim.
    """

    batch: Batch
    handover: Handover
    threads: int | None = None
    wait: bool = False

    @property
    def name(self) -> str:
        arms = dict.fromkeys(arm.name for arm, _ in self.batch.runs)
        return f"{self.batch.path.stem} ({', '.join(arms)})"


def run_task(task: Task) -> Outcome:
    """Train and measure one batch where that is not done. Errors are part of the outcome."""
    begun = time.monotonic()
    if task.threads is not None:
        os.environ[THREADS] = str(task.threads)  # read at the first array
    rules: dict[Path, str] = {}
    try:
        state = _finish(task, rules)
    except Exception as error:
        told = next(filter(None, (blame(error, path) for path in rules)), None)
        of_system = isinstance(error, OSError) and error.errno is not None
        stops = isinstance(error, NotShared) or of_system
        return Outcome(**failure(ValueError(told) if told else error, begun, stops))
    return Outcome(state, socket.gethostname(), time.monotonic() - begun)


def _finish(task: Task, rules: dict[Path, str]):
    """The state of the outcome; `rules` gets files of rules, for who explains an error."""
    shared, notes = json.loads(task.handover.read()), task.handover.notes
    with claimed(notes, task.batch.path.stem, task.wait) as mine:
        if not mine:
            return "held"
        if is_measured(notes.parent, task.batch.runs):
            return "skipped"
        rules |= {Path(path): source for path, source in shared["rules"].items()}
        jax.config.update("jax_enable_x64", shared["x64"])
        corpus = read_corpus()
        if corpus.digest != shared["text"]:
            raise NotShared(
                f"the standard library of {socket.gethostname()} is another text than the driver's: "
                "nodes need the same Python"
            )
        every = RULES | {path.stem: _rule(source, path) for path, source in rules.items()}
        preset = preset_of(shared["preset"], every, "preset.json")
        trainer = _trainer(preset.shape, preset.plan, every[task.batch.rule])
        text = held_out_text(corpus, preset.held_out, preset.plan.length + 1)
        finish_batch(trainer, task.batch, corpus, text, preset, notes.parent)
    return "written"


_rule = lru_cache(rule_of)
_trainer = lru_cache(4)(Trainer)  # what one worker has compiled
