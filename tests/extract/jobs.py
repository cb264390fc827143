"""Small tasks that go right or wrong where they run. A module of its own, so that nodes can import it."""

import errno
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from mfgjax_extract.engines.claim import claimed
from mfgjax_extract.engines.drive import Outcome, failure


@dataclass(frozen=True)
class Job:
    """Writes `out/name`; does what it is told before: once, or each time."""

    name: str
    out: Path
    does: str = ""
    wait: bool = False


def work(job: Job) -> Outcome:
    begun = time.monotonic()
    with claimed(job.out / "notes", job.name, job.wait) as mine:
        if not mine:
            return Outcome("held", socket.gethostname(), 0.0)
        try:
            _act(job)
        except Exception as error:
            full = isinstance(error, OSError) and error.errno == errno.ENOSPC
            return Outcome(**failure(error, begun, stops=full))
        (job.out / job.name).write_text(job.name)
    return Outcome("written", socket.gethostname(), time.monotonic() - begun)


def _act(job: Job) -> None:
    mark = job.out / "notes" / f"{job.name}.did"
    once, what = job.does.endswith(" once"), job.does.removesuffix(" once")
    if once and mark.exists():
        return
    mark.touch()
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "sleep":
        time.sleep(600)
    if what == "rest":
        time.sleep(1)
    if what == "fail":
        raise TimeoutError("the hub hung up")
    if what == "fill":
        raise OSError(errno.ENOSPC, "No space left on device")
