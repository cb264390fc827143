"""A sweep whose checkpoints run elsewhere: the driver. It holds names and numbers, no results.

What a task was is in its files: a driver that is killed and started again skips what is done.
"""

import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mfgjax_extract.engines import Engine, WorkerLost
from mfgjax_extract.revisions import Revision
from mfgjax_extract.shared_folder import APPEARS_S, check_nodes, handed_over, within
from mfgjax_extract.source import pinned
from mfgjax_extract.sweep import refuse_mismatches
from mfgjax_extract.sweep_settings import SweepSettings
from mfgjax_extract.task import Outcome, Task, run_task
from mfgjax_extract.trace_file import TraceMismatch, read_metadata

RETRIES = 3
"""Times that a checkpoint is tried again after its worker or node died."""


class SpreadReporter:
    """What a spread sweep tells whoever watches."""

    def skipped(self, revision: Revision) -> None: ...

    def finished(self, revision: Revision, outcome: Outcome) -> None: ...

    def again(self, revision: Revision, reason: str, attempt: int) -> None: ...

    def waiting(self, revision: Revision) -> None: ...

    def warning(self, words: str) -> None: ...


def spread(
    revisions: list[Revision],
    texts: list[str],
    settings: SweepSettings,
    engine: Callable[[], Engine],
    reporter: SpreadReporter,
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
        retry: names of Python errors that are tried again, as deaths of workers are, `RETRIES` times.

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
    for revision in done:
        reporter.skipped(revision)
    todo = [revision for revision in revisions if revision not in done]
    if not todo:
        return []
    running_engine = engine()
    try:
        with handed_over(settings.out, texts) as handover:
            for words in check_nodes(handover, texts, running_engine.on_every_node):
                reporter.warning(words)
            tasks = [Task(r, settings, handover, threads, delete_downloads) for r in todo]
            return _drive(tasks, running_engine, reporter, retry)
    finally:
        running_engine.close()


def _drive(
    tasks: list[Task], engine: Engine, reporter: SpreadReporter, retry: Sequence[str]
) -> list[Revision]:
    queue, running, failed, held = deque(tasks), {}, [], []
    attempts: Counter[str] = Counter()
    stop: Exception | None = None
    while (queue and stop is None) or running:
        room = engine.at_once - len(running)
        batch = [queue.popleft() for _ in range(min(room, len(queue)))] if stop is None else []
        running |= zip(engine.submit(run_task, batch) if batch else [], batch, strict=True)
        for handle in engine.ended(running):
            task = running.pop(handle)
            outcome, tried = _outcome(engine, handle), attempts[task.revision.label]
            if outcome.state == "held":
                reporter.waiting(task.revision)
                held.append(dataclasses.replace(task, wait=True))
            elif outcome.state == "failed" and _is_retried(outcome, retry) and tried < RETRIES:
                attempts[task.revision.label] += 1
                reporter.again(task.revision, outcome.reason, tried + 1)
                queue.append(task)
            elif outcome.state == "failed" and outcome.stops:
                stop = stop or _error(outcome, task.settings.out)
            else:
                if outcome.state == "failed":
                    failed.append(task.revision)
                reporter.finished(task.revision, outcome)
        if not queue and not running and stop is None:
            queue, held = deque(held), []
    if stop is not None:
        raise stop
    return failed


def _outcome(engine: Engine, handle: Any) -> Outcome:
    try:
        outcome = engine.result(handle)
    except WorkerLost as lost:
        return Outcome("failed", "", 0.0, reason=str(lost), kinds=(WorkerLost.__name__,))
    for file in outcome.files:
        if not within(APPEARS_S, lambda f=file: _digest(Path(f.path)) == f.digest):
            return dataclasses.replace(
                outcome,
                state="failed",
                reason=f"{outcome.host} wrote {file.path}, which is not what is seen here",
                stops=True,
            )
    return outcome


def _digest(path: Path) -> str | None:
    try:
        return read_metadata(path).get("content_digest")
    except (OSError, TraceMismatch):
        return None


def _is_retried(outcome: Outcome, named: Sequence[str]) -> bool:
    return WorkerLost.__name__ in outcome.kinds or any(name in outcome.kinds for name in named)


def _error(outcome: Outcome, out: Path) -> Exception:
    """What a serial sweep would have raised."""
    if outcome.number is not None:
        return OSError(outcome.number, f"{outcome.reason} (on {outcome.host})", str(out))
    kind = ValueError if "ValueError" in outcome.kinds else RuntimeError
    return kind(f"{outcome.host}: {outcome.reason}")


def _seen_everywhere(revision: Revision) -> Revision:
    if revision.hub_revision is not None:
        return revision
    return dataclasses.replace(revision, source=str(Path(revision.source).resolve()))
