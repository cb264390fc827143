"""Text that every Python has: the standard library's sources and the pydoc topics.

Files are split into training and held-out by a hash of their path, so that no file is in
both, whatever order the file system lists them in.
"""

import hashlib
import sys
import sysconfig
from functools import cache
from importlib import import_module
from pathlib import Path

HELD_OUT_SHARE = 10
"""One file in this many is held out."""


def standard_library_files() -> list[tuple[str, bytes]]:
    """`(relative path, content)` of every stdlib source outside its test suites, sorted."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skip = {"site-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3"}
    files = sorted(p for p in root.rglob("*.py") if not skip & set(p.relative_to(root).parts))
    named = [(p.relative_to(root).as_posix(), p.read_bytes()) for p in files]
    return [(name, content) for name, content in named if content]


def pydoc_topics() -> list[tuple[str, bytes]]:
    """The language reference topics that `help()` shows, as `(name, content)`."""
    topics = import_module("pydoc_data.topics").topics
    return [(f"topics/{name}", text.encode()) for name, text in sorted(topics.items())]


def _held_out(name: str) -> bool:
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0


@cache
def split_corpus() -> tuple[bytes, dict[str, bytes]]:
    """Training bytes in one string, and the held-out documents by name."""
    documents = [d for d in standard_library_files() if d[0] != "pydoc_data/topics.py"]
    documents += pydoc_topics()
    train = b"\n".join(content for name, content in documents if not _held_out(name))
    return train, {name: content for name, content in documents if _held_out(name)}


def held_out_texts(count: int, length: int) -> list[str]:
    """`count` texts of `length` bytes, one from the middle of each of `count` held-out documents.

    The documents are taken in order of their hash: a fixed, arbitrary choice. Only plain
    ASCII slices are kept, so that one character is one token of the byte tokenizer.
    """
    _, documents = split_corpus()
    by_hash = sorted(documents, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    texts = []
    for name in by_hash:
        content = documents[name]
        start = max(0, len(content) // 2 - length // 2)
        piece = content[start : start + length]
        if len(piece) == length and piece.isascii():
            texts.append(piece.decode())
        if len(texts) == count:
            return texts
    raise SystemExit(
        f"only {len(texts)} held-out documents of {length} ASCII bytes in Python "
        f"{sys.version.split()[0]}'s standard library, {count} wanted: lower --texts or --length"
    )


def held_out_pieces(per_document: int, length: int) -> tuple[list[str], list[int]]:
    """`per_document` texts of `length` bytes, spread evenly over every held-out document that has them.

    Pieces do not overlap; documents too short for that, or with a piece that is not ASCII, are left out.

    Returns:
        The texts, and the number of the document of each.
    """
    _, documents = split_corpus()
    texts, numbers = [], []
    for name in sorted(documents):
        content = documents[name]
        stride = len(content) // per_document
        pieces = [content[i * stride : i * stride + length] for i in range(per_document)]
        if stride >= length and all(piece.isascii() for piece in pieces):
            number = numbers[-1] + 1 if numbers else 0
            texts += [piece.decode() for piece in pieces]
            numbers += [number] * per_document
    return texts, numbers
