"""Whether all nodes see the folder of the traces as one folder, and hold each other's claims.

The driver leaves a file under a name that nobody had before, with the texts in it. A task that
does not find it works in another folder of the same name, and ends before a model is loaded.
"""

import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mfgjax_extract.claim import NOTES, claimed
from mfgjax_extract.texts import hash_texts

APPEARS_S = 60.0
"""A network file system may show what another node wrote this much later (`acdirmax` of NFS)."""


class NotShared(RuntimeError):
    """A node does not see the folder of the traces that the driver sees."""


@dataclass(frozen=True)
class Handover:
    """Where the driver left the texts.

    Attributes:
        out: folder of the traces, absolute.
        nonce: of this driver.
    """

    out: Path
    nonce: str

    @property
    def path(self) -> Path:
        return self.out / NOTES / f"sweep-{self.nonce}.json"

    def answer(self, node: str) -> Path:
        return self.out / NOTES / f"sweep-{self.nonce}.{node}.seen"


@contextmanager
def handed_over(out: Path, texts: list[str]) -> Iterator[Handover]:
    """Leave the texts for the tasks until the block ends."""
    handover = Handover(out.resolve(), uuid.uuid4().hex)
    handover.path.parent.mkdir(parents=True, exist_ok=True)
    partial = handover.path.with_name(f"{handover.path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(texts, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, handover.path)
        yield handover
    finally:
        for left in handover.path.parent.glob(f"*{handover.nonce}*"):
            left.unlink(missing_ok=True)


def texts_of(handover: Handover) -> list[str]:
    """The texts, on whatever node this is.

    Raises:
        NotShared: they are not here.
    """
    if not within(APPEARS_S, handover.path.is_file):
        raise NotShared(
            f"{socket.gethostname()} does not see what the driver wrote to {handover.out}: --out must "
            "be a folder that all nodes share"
        )
    return json.loads(handover.path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Answer:
    """What one node says before it gets work.

    Attributes:
        host: its name.
        node: a name for this answer.
        texts_hash: of the texts it read.
        shares_claims: whether it sees that the driver holds a claim.
        versions: of what decides the numbers.
    """

    host: str
    node: str
    texts_hash: str
    shares_claims: bool
    versions: tuple[str, ...]


def answer(handover: Handover) -> Answer:
    """Runs on each node, without torch: read what the driver wrote, write what it can read back."""
    texts_hash = hash_texts(texts_of(handover))
    with claimed(handover.out, f"sweep-{handover.nonce}") as mine:
        pass
    node = uuid.uuid4().hex[:12]
    handover.answer(node).write_text(node)
    return Answer(socket.gethostname(), node, texts_hash, not mine, _versions())


def check_nodes(
    handover: Handover, texts: list[str], ask: Callable[[Callable, Handover], list[Answer]]
) -> list[str]:
    """Ask every node that is known, before any model is loaded.

    Args:
        handover: from `handed_over`.
        texts: the texts.
        ask: `on_every_node` of an engine.

    Returns:
        What is worth a warning, one line each.

    Raises:
        NotShared: a node sees another folder, or its writing is not seen here.
    """
    with claimed(handover.out, f"sweep-{handover.nonce}") as mine:
        assert mine
        answers = ask(answer, handover)
    for told in answers:
        seen = within(APPEARS_S, handover.answer(told.node).is_file)
        if not seen or told.texts_hash != hash_texts(texts):
            raise NotShared(
                f"what {told.host} writes to {handover.out} is not seen here: --out must be a folder "
                "that all nodes share"
            )
    warnings = []
    if deaf := sorted({a.host for a in answers if not a.shares_claims}):
        warnings.append(
            f"file locks in {handover.out} do not reach {', '.join(deaf)}: run no second sweep on it"
        )
    if len({a.versions for a in answers}) > 1:
        each = "; ".join(sorted({f"{a.host}: {', '.join(a.versions)}" for a in answers}))
        warnings.append(f"nodes differ, and files may in the last bits ({each})")
    return warnings


def _versions() -> tuple[str, ...]:
    found = []
    for name in ("mfgjax-extract", "torch", "transformers"):
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
