"""Whether all nodes see the output folder as one folder, and hold each other's claims.

The driver leaves a file under a name that nobody had before, with what all tasks need in it. A task
that does not find it works in another folder of the same name, and ends before a model is loaded.
"""

import hashlib
import os
import platform
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .claim import claimed

APPEARS_S = 60.0
"""A network file system may show what another node wrote this much later (`acdirmax` of NFS)."""


class NotShared(RuntimeError):
    """A node does not see the output folder that the driver sees."""


@dataclass(frozen=True)
class Handover:
    """Where the driver left what all tasks need.

    Attributes:
        notes: folder of notes in the output folder, absolute.
        nonce: of this driver.
        packages: whose versions decide the numbers.
    """

    notes: Path
    nonce: str
    packages: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.notes / f"sweep-{self.nonce}.json"

    def answer(self, node: str) -> Path:
        return self.notes / f"sweep-{self.nonce}.{node}.seen"

    def read(self) -> bytes:
        """What the driver left, on whatever node this is. Raises `NotShared`: it is not here."""
        if not within(APPEARS_S, self.path.is_file):
            raise NotShared(
                f"{socket.gethostname()} does not see what the driver wrote to {self.notes.parent}: "
                "--out must be a folder that all nodes share"
            )
        return self.path.read_bytes()


@contextmanager
def handed_over(notes: Path, content: bytes, packages: tuple[str, ...]) -> Iterator[Handover]:
    """Leave `content` for the tasks until the block ends."""
    handover = Handover(notes.resolve(), uuid.uuid4().hex, packages)
    notes.mkdir(parents=True, exist_ok=True)
    partial = handover.path.with_name(f"{handover.path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, handover.path)
        yield handover
    finally:
        for left in notes.glob(f"*{handover.nonce}*"):
            left.unlink(missing_ok=True)


@dataclass(frozen=True)
class Answer:
    """What one node says before it gets work.

    Attributes:
        host: its name.
        node: a name for this answer.
        read: digest of what it read.
        shares_claims: whether it sees that the driver holds a claim.
        versions: of what decides the numbers.
    """

    host: str
    node: str
    read: str
    shares_claims: bool
    versions: tuple[str, ...]


def answer(handover: Handover) -> Answer:
    """Runs on each node, and loads no model: read what the driver wrote, write what it can read back."""
    read = _digest(handover.read())
    with claimed(handover.notes, f"sweep-{handover.nonce}") as mine:
        pass
    node = uuid.uuid4().hex[:12]
    handover.answer(node).write_text(node)
    return Answer(socket.gethostname(), node, read, not mine, _versions(handover.packages))


def check_nodes(handover: Handover, ask: Callable[[Callable, Handover], list[Answer]]) -> list[str]:
    """Ask every node that is known, before any model is loaded.

    Args:
        handover: from `handed_over`.
        ask: `on_every_node` of an engine.

    Returns:
        What is worth a warning, one line each.

    Raises:
        NotShared: a node sees another folder, or its writing is not seen here.
    """
    with claimed(handover.notes, f"sweep-{handover.nonce}") as mine:
        assert mine
        answers = ask(answer, handover)
    for told in answers:
        seen = within(APPEARS_S, handover.answer(told.node).is_file)
        if not seen or told.read != _digest(handover.read()):
            raise NotShared(
                f"what {told.host} writes to {handover.notes.parent} is not seen here: --out must be "
                "a folder that all nodes share"
            )
    warnings = []
    if deaf := sorted({a.host for a in answers if not a.shares_claims}):
        warnings.append(
            f"file locks in {handover.notes.parent} do not reach {', '.join(deaf)}: run no second "
            "sweep on it"
        )
    if len({a.versions for a in answers}) > 1:
        each = "; ".join(sorted({f"{a.host}: {', '.join(a.versions)}" for a in answers}))
        warnings.append(f"nodes differ, and files may in the last bits ({each})")
    return warnings


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _versions(packages: tuple[str, ...]) -> tuple[str, ...]:
    found = [f"Python {platform.python_version()}"]
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return tuple(found)


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether `holds()` becomes true within `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True
