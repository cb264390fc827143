"""The driver: submits tasks, tries again what died, stops where going on makes no sense.

It holds names and numbers, no results. What a task was is in its files: a driver that is killed and
started again skips what is done.
"""

import dataclasses
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from . import Engine, WorkerLost

RETRIES = 3
"""Times that a task is tried again after its worker or node died."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a task; small, whatever the size of its files.

    Attributes:
        state: `held`: another process writes these files now.
        host: where it ran.
        seconds: on that host, from the first line to the last.
        reason: of the failure.
        kinds: names of the error's classes, the nearest first.
        number: of the system's error, such as a full disk; None for others.
        stops: whether it would be the same for all tasks.
    """

    state: Literal["written", "skipped", "held", "failed"]
    host: str
    seconds: float
    reason: str = ""
    kinds: tuple[str, ...] = ()
    number: int | None = None
    stops: bool = False


def failure(error: Exception, begun: float, stops: bool) -> dict[str, Any]:
    """Fields of the outcome of a task that raised `error`; it began at `begun` of the monotonic clock."""
    return {
        "state": "failed",
        "host": socket.gethostname(),
        "seconds": time.monotonic() - begun,
        "reason": " ".join((str(error) or type(error).__name__).split()),
        "kinds": tuple(kind.__name__ for kind in type(error).__mro__),
        "number": error.errno if isinstance(error, OSError) else None,
        "stops": stops,
    }


class Reporter:
    """What a driver tells whoever watches; tasks are named."""

    def planned(self, tasks: int) -> None: ...

    def skipped(self, name: str) -> None: ...

    def finished(self, name: str, outcome: Any) -> None: ...

    def again(self, name: str, reason: str, attempt: int) -> None: ...

    def waiting(self, name: str) -> None: ...

    def warning(self, words: str) -> None: ...


def drive(
    function: Callable[[Any], Outcome],
    tasks: Sequence[Any],
    engine: Engine,
    reporter: Reporter,
    out: Path,
    retry: Sequence[str] = (),
    missing: Callable[[Any], str | None] = lambda outcome: None,
) -> list[Any]:
    """Run every task on `engine`.

    Args:
        function: from a task to its outcome; raises nothing.
        tasks: dataclasses with a `name`, and `wait`: whether to wait for whoever holds the claim.
        engine: that runs them; deaths of its workers are tried again.
        reporter: gets progress.
        out: the folder that tasks write to, for errors.
        retry: names of Python errors that are tried again, too.
        missing: a file of an outcome that is not seen here.

    Returns:
        The tasks that failed; `reporter` got the reason of each.

    Raises:
        RuntimeError, ValueError, OSError: what would be the same for every task. What runs is waited
            for, nothing more is started.
    """
    queue, running, failed, held = deque(tasks), {}, [], []
    attempts: Counter[str] = Counter()
    stop: Exception | None = None
    while (queue and stop is None) or running:
        room = engine.at_once - len(running)
        batch = [queue.popleft() for _ in range(min(room, len(queue)))] if stop is None else []
        running |= zip(engine.submit(function, batch) if batch else [], batch, strict=True)
        for handle in engine.ended(running):
            task = running.pop(handle)
            outcome, tried = _outcome(engine, handle, missing), attempts[task.name]
            if outcome.state == "held":
                reporter.waiting(task.name)
                held.append(dataclasses.replace(task, wait=True))
            elif outcome.state == "failed" and _is_retried(outcome, retry) and tried < RETRIES:
                attempts[task.name] += 1
                reporter.again(task.name, outcome.reason, tried + 1)
                queue.append(task)
            elif outcome.state == "failed" and outcome.stops:
                stop = stop or _error(outcome, out)
            else:
                if outcome.state == "failed":
                    failed.append(task)
                reporter.finished(task.name, outcome)
        if not queue and not running and stop is None:
            queue, held = deque(held), []
    if stop is not None:
        raise stop
    return failed


def _outcome(engine: Engine, handle: Any, missing: Callable[[Any], str | None]) -> Outcome:
    try:
        outcome = engine.result(handle)
    except WorkerLost as lost:
        return Outcome("failed", "", 0.0, reason=str(lost), kinds=(WorkerLost.__name__,))
    if (path := missing(outcome)) is not None:
        words = f"{outcome.host} wrote {path}, which is not what is seen here"
        return dataclasses.replace(outcome, state="failed", reason=words, stops=True)
    return outcome


def _is_retried(outcome: Outcome, named: Sequence[str]) -> bool:
    return WorkerLost.__name__ in outcome.kinds or any(name in outcome.kinds for name in named)


def _error(outcome: Outcome, out: Path) -> Exception:
    """What the same work on this machine would have raised."""
    if outcome.number is not None:
        return OSError(outcome.number, f"{outcome.reason} (on {outcome.host})", str(out))
    kind = ValueError if "ValueError" in outcome.kinds else RuntimeError
    return kind(f"{outcome.host}: {outcome.reason}")
