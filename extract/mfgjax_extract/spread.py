"""A sweep whose checkpoints run elsewhere, each as a task of an engine."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from mfgjax_extract.engines import Engine
from mfgjax_extract.engines.drive import Reporter, drive
from mfgjax_extract.engines.shared_folder import APPEARS_S, check_nodes, handed_over, within
from mfgjax_extract.revisions import Revision
from mfgjax_extract.source import NOTES, pinned
from mfgjax_extract.sweep import refuse_mismatches
from mfgjax_extract.sweep_settings import SweepSettings
from mfgjax_extract.task import Extracted, Task, run_task
from mfgjax_extract.trace_file import TraceMismatch, read_metadata

PACKAGES = ("mfgjax-extract", "torch", "transformers")
"""Whose versions decide what a model computes."""


def spread(
    revisions: list[Revision],
    texts: list[str],
    settings: SweepSettings,
    engine: Callable[[], Engine],
    reporter: Reporter,
    threads: int | None = None,
    delete_downloads: bool = False,
    retry: Sequence[str] = (),
) -> list[Revision]:
    """Extract every checkpoint that is not done yet, each as a task of `engine`.

    Args:
        revisions: the checkpoints, from `list_revisions`.
        texts: the texts.
        settings: everything else; the folder must be one that all nodes share.
        engine: made only if something is left to do.
        reporter: gets progress.
        threads: of torch in each task.
        delete_downloads: delete each hub revision once its last reader on a node is done.
        retry: names of Python errors that are tried again, as deaths of workers are.

    Returns:
        The checkpoints that failed; `reporter` got the reason of each.

    Raises:
        TraceMismatch: as `sweep`, before anything runs.
        RuntimeError: what would fail for every checkpoint: a folder that is not shared, a node that
            cannot run the task, no network.
        ValueError: a dtype or device that a node does not have.
        OSError: the disk is full. What runs is waited for, nothing more is started.
    """
    settings = dataclasses.replace(settings, out=settings.out.resolve())
    settings.out.mkdir(parents=True, exist_ok=True)
    revisions = [_seen_everywhere(pinned(revision)) for revision in revisions]
    done = refuse_mismatches(revisions, texts, settings)
    reporter.planned(len(revisions))
    for revision in done:
        reporter.skipped(revision.name)
    todo = [revision for revision in revisions if revision not in done]
    if not todo:
        return []
    running = engine()
    try:
        with handed_over(settings.out / NOTES, json.dumps(texts).encode(), PACKAGES) as handover:
            for words in check_nodes(handover, running.on_every_node):
                reporter.warning(words)
            tasks = [Task(r, settings, handover, threads, delete_downloads) for r in todo]
            failed = drive(run_task, tasks, running, reporter, settings.out, retry, _missing)
    finally:
        running.close()
    return [task.revision for task in failed]


def _missing(outcome: Extracted) -> str | None:
    """A trace that is not here as it was written there."""
    for file in outcome.files:
        if not within(APPEARS_S, lambda f=file: _digest(Path(f.path)) == f.digest):
            return file.path
    return None


def _digest(path: Path) -> str | None:
    try:
        return read_metadata(path).get("content_digest")
    except (OSError, TraceMismatch):
        return None


def _seen_everywhere(revision: Revision) -> Revision:
    if revision.hub_revision is not None:
        return revision
    return dataclasses.replace(revision, source=str(Path(revision.source).resolve()))
