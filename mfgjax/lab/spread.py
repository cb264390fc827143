"""A lab whose runs are trained elsewhere: each batch of runs is a task of an engine.

The seeds of an arm are a batch: one program trains them, an array dimension more.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mfgjax.engines import Engine
from mfgjax.engines.drive import Reporter, drive
from mfgjax.engines.shared_folder import APPEARS_S, check_nodes, handed_over, within
from mfgjax.lab.corpus import read_corpus
from mfgjax.lab.folder import gather, is_measured, prepared, sole_use
from mfgjax.lab.preset import Preset
from mfgjax.lab.rule import Rule
from mfgjax.lab.rules import RULES
from mfgjax.lab.run import batches
from mfgjax.lab.task import Task, run_task

NOTES = ".tasks"
"""Folder below a lab for claims, and for what drivers hand over."""
PACKAGES = ("mfgjax", "jax", "jaxlib", "flax", "optax", "numpy")
"""Whose versions decide the numbers."""


def spread_lab(
    preset: Preset,
    out: Path,
    engine: Callable[[Path], Engine],
    reporter: Reporter,
    *,
    rules: Mapping[str, Rule] = RULES,
    rule_files: Sequence[Path] = (),
    at_once: int = 0,
    threads: int | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Train, trace and measure every batch that is not done, each as a task of `engine`.

    Args:
        preset: what to train.
        out: a folder that all nodes share, new or of the same models and text.
        engine: from the folder of its notes; made only if something is left to do.
        reporter: gets progress.
        rules: by name.
        rule_files: of those that do not come with the package; nodes get what they say.
        at_once: runs of a task at most; 0 for the seeds of one arm. A folder keeps what it began with.
        threads: of XLA in each task.

    Returns:
        What is in `results.json`, and the tasks that failed; `reporter` got the reason of each.

    Raises:
        ValueError: a folder of other models, another text or a changed rule, or one that another process
            works in.
        RuntimeError: what would fail for every task, such as a folder that is not shared.
        LabError: the disk is full. What runs is waited for, nothing more is started.
    """
    out = out.resolve()
    with sole_use(out):
        corpus = read_corpus()
        made = prepared(out, preset, corpus, rules)
        every = list(batches(preset, out, made, lambda rule, runs: at_once or preset.seeds))
        shared = {
            "preset": preset.to_json(),
            "rules": {str(path): path.read_text(encoding="utf-8") for path in rule_files},
            "text": corpus.digest,
            "x64": bool(jax.config.read("jax_enable_x64")),
        }
        reporter.planned(len(every))
        failed: list[Task] = []
        with handed_over(out / NOTES, json.dumps(shared).encode(), PACKAGES) as handover:
            tasks = [Task(batch, handover, threads) for batch in every]
            done = [task for task in tasks if is_measured(out, task.batch.runs)]
            for task in done:
                reporter.skipped(task.name)
            if todo := [task for task in tasks if task not in done]:
                running = engine(out / NOTES)
                try:
                    for words in check_nodes(handover, running.on_every_node):
                        reporter.warning(words)
                    failed = drive(run_task, todo, running, reporter, out)
                finally:
                    running.close()
        gone = {task.name for task in failed}
        for task in tasks:
            if task.name not in gone:
                within(APPEARS_S, lambda task=task: is_measured(out, task.batch.runs))
        return gather(out, made), sorted(gone)
