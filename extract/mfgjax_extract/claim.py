"""One process per checkpoint and folder: a claim that ends when the process ends, however it ends.

The operating system holds the claim (`flock`), so a killed process leaves none behind. The lock
files stay, in a folder of their own: deleting one that somebody waits for would make two claims.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

NOTES = ".extract"
"""Folder below the traces for what is not a trace."""


@contextmanager
def claimed(out: Path, label: str, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone may write checkpoint `label` of folder `out`, until the block ends.

    Args:
        out: folder of the traces.
        label: file name stem of the checkpoint.
        wait: until who holds it lets go, instead of yielding False.
    """
    notes = out / NOTES
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
