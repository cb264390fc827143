"""One process per task and folder: a claim that ends when the process ends, however it ends.

The operating system holds the claim (`flock`), so a killed process leaves none behind. The lock
files stay, in a folder of their own: deleting one that somebody waits for would make two claims.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def claimed(notes: Path, label: str, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone may write what `label` names, until the block ends.

    Args:
        notes: folder of the lock files, below the one that is written to.
        label: file name stem.
        wait: until who holds it lets go, instead of yielding False.
    """
    notes.mkdir(exist_ok=True)
    lock = FileLock(notes / f"{label}.lock", timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
