"""Tasks that go wrong on the node they run on. A module of its own, so that nodes can import it.

torch is imported late: a worker that is killed at once does not wait for it.
"""

import os
import resource
import signal

from mfgjax_extract.task import Extracted, Task, run_task

KILLED = "step0-tokens0"


def killed_once(task: Task) -> Extracted:
    """The process dies by SIGKILL in the middle of checkpoint `KILLED`, the first time only."""
    mark = task.settings.out.parent / f"{task.settings.out.name}.killed"
    if task.revision.name != KILLED or mark.exists():
        return run_task(task)
    mark.touch()
    _in_second_batch(lambda: os.kill(os.getpid(), signal.SIGKILL))
    return run_task(task)


def on_a_full_disk(task: Task) -> Extracted:
    """A limit on the size of files stands for the disk: both are an error of the write."""
    from mfgjax_extract import checkpoint

    before, run_batch = resource.getrlimit(resource.RLIMIT_FSIZE), checkpoint.run_batch
    _in_second_batch(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1])))
    try:
        return run_task(task)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        checkpoint.run_batch = run_batch


def _in_second_batch(action) -> None:
    """The files are laid out then, and half filled."""
    from mfgjax_extract import checkpoint

    run_batch, batches = checkpoint.run_batch, []

    def acting(model, ids, mask):
        batches.append(ids)
        if len(batches) == 2:
            action()
        return run_batch(model, ids, mask)

    checkpoint.run_batch = acting
