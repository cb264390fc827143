"""Text that every Python has, in three domains: code, prose and tables.

Code is the standard library's sources, prose the language reference that `help()` shows, tables are
written out of its data: Unicode characters, HTML entities, media types, calendars. Documents are split into
training and held-out by a hash of their name. The text depends on the Python version; `Corpus.digest` says
which it was.
"""

import calendar
import dataclasses
import hashlib
import html.entities
import mimetypes
import sysconfig
import unicodedata
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, UInt8

DOMAINS = ("code", "prose", "tables")
_HELD_OUT_SHARE = 10
_MOST_BYTES = 2_000_000
"""Per domain: enough for every preset, and little enough to be read in a second."""
_ROWS = 64
"""Lines of a table that make one document."""
_PAGE = 4000
"""Bytes of a topic that make one."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Bytes of each domain.

    Attributes:
        training: one row per domain, 0 behind its end.
        length: bytes of each row.
        held_out: documents of each domain.
        digest: SHA-256 of all of it.
    """

    training: UInt8[np.ndarray, "domain byte"]
    length: Int[np.ndarray, " domain"]
    held_out: tuple[tuple[bytes, ...], ...]
    digest: str


@cache
def read_corpus() -> Corpus:
    """The text of this Python. Raises `RuntimeError` where its library has no sources."""
    documents = {"code": _code(), "prose": _prose(), "tables": _tables()}
    training, held_out = [], []
    for domain in DOMAINS:
        if len(documents[domain]) < 2 * _HELD_OUT_SHARE:
            raise RuntimeError(
                f"this Python has too little text of the domain {domain!r} in its standard library: "
                "is it installed without sources?"
            )
        kept = [d for d in documents[domain] if _number(d[0]) % _HELD_OUT_SHARE]
        training.append(b"\n".join(text for _, text in kept)[:_MOST_BYTES])
        rest = [d for d in documents[domain] if _number(d[0]) % _HELD_OUT_SHARE == 0]
        held_out.append(tuple(text for _, text in sorted(rest, key=lambda d: _number(d[0]))))
    longest = max(map(len, training))
    rows = [np.frombuffer(t.ljust(longest, b"\0"), np.uint8) for t in training]
    digest = hashlib.sha256(b"".join(training) + b"".join(b"".join(h) for h in held_out))
    length = np.array([len(t) for t in training], np.int32)
    return Corpus(np.stack(rows), length, tuple(held_out), digest.hexdigest())


def draw_windows(
    key: PRNGKeyArray,
    training: UInt8[Array, "domain byte"],
    length: Int[Array, " domain"],
    *,
    micro_batches: int,
    batch: int,
    window: int,
) -> Int[Array, "micro batch window"]:
    """Training windows, each micro-batch of one domain, the domains in turn. Pure; sizes are static."""
    domains = jnp.arange(micro_batches, dtype=jnp.int32) % len(DOMAINS)
    share = jax.random.uniform(key, (micro_batches, batch), jnp.float32)
    room = (length[domains] - window).astype(jnp.float32)[:, None]
    start = (share * room).astype(jnp.int32)

    def cut(domain, start):
        return jax.lax.dynamic_slice(training, (domain, start), (1, window))[0]

    cut_all = jax.vmap(jax.vmap(cut, (None, 0)))
    return cut_all(domains, start).astype(jnp.int32)


class HeldOut(NamedTuple):
    """Held-out windows, as many of each domain.

    Attributes:
        windows: their bytes.
        domain: number of the domain of each, in `DOMAINS`.
        document: number of the document that each is from.
        digest: hash of the windows.
    """

    windows: Int[np.ndarray, "text window"]
    domain: Int[np.ndarray, " text"]
    document: list[int]
    digest: str


def held_out_text(corpus: Corpus, per_domain: int, window: int) -> HeldOut:
    """Windows taken from documents in turn, in a fixed arbitrary order; they do not overlap.

    Raises:
        ValueError: more windows than there are.
    """
    windows, domains, numbers = [], [], []
    first = 0
    for domain, documents in enumerate(corpus.held_out):
        pieces: list[tuple[int, bytes]] = []
        for turn in range(max(len(d) for d in documents) // window):
            for number, text in enumerate(documents):
                piece = text[turn * window : (turn + 1) * window]
                if len(piece) == window:
                    pieces.append((first + number, piece))
            if len(pieces) >= per_domain:
                break
        if len(pieces) < per_domain:
            raise ValueError(
                f"the held-out {DOMAINS[domain]} has {len(pieces)} windows of {window} bytes, {per_domain} "
                "are wanted: lower held_out or length of the preset"
            )
        for number, piece in sorted(pieces[:per_domain]):
            windows.append(np.frombuffer(piece, np.uint8))
            domains.append(domain)
            numbers.append(number)
        first += len(documents)
    found = np.stack(windows).astype(np.int32)
    digest = hashlib.sha256(found.tobytes()).hexdigest()[:16]
    return HeldOut(found, np.array(domains, np.int32), numbers, digest)


def _number(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest(), 16)


def _code() -> list[tuple[str, bytes]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    skip = {"site-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3", "pydoc_data"}
    found, size = [], 0
    paths = (p for p in root.rglob("*.py") if not skip & set(p.relative_to(root).parts))
    names = {p.relative_to(root).as_posix(): p for p in paths}
    for name in sorted(names, key=_number):
        text = names[name].read_bytes()
        found.append((name, text))
        size += len(text)
        if size > 1.2 * _MOST_BYTES:
            break
    return [(name, text) for name, text in found if text]


def _prose() -> list[tuple[str, bytes]]:
    topics = import_module("pydoc_data.topics").topics
    return [
        (f"topics/{name}/{start}", text.encode()[start : start + _PAGE])
        for name, text in sorted(topics.items())
        for start in range(0, len(text), _PAGE)
    ]


def _tables() -> list[tuple[str, bytes]]:
    characters = [
        f"{number:04X};{name};{unicodedata.category(letter)};{unicodedata.bidirectional(letter)};"
        f"{unicodedata.decomposition(letter)}"
        for number in range(0x3000)
        if (name := unicodedata.name(letter := chr(number), ""))
    ]
    entities = [f"{n},U+{ord(c):04X}" for n, c in html.entities.entitydefs.items() if len(c) == 1]
    kinds = [f"{end}\t{kind}" for end, kind in sorted(mimetypes.MimeTypes().types_map[1].items())]
    text = calendar.TextCalendar()
    years = [line for year in range(1990, 2030) for line in text.formatyear(year).splitlines()]
    tables = {"unicode": characters, "entities": entities, "media": kinds, "calendar": years}
    return [
        (f"tables/{name}/{start}", "\n".join(lines[start : start + _ROWS]).encode())
        for name, lines in tables.items()
        for start in range(0, len(lines), _ROWS)
    ]
