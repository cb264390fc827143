"""Write traces, version 1: one safetensors file per checkpoint and stream, never half a file.

The tensors are laid out before the first token is routed (their sizes follow from the
tokenised texts) and filled in place on disk, so that memory does not grow with the texts. They
are filled by ordinary writes: on a full disk a mapped file would end the process by a signal,
where a write is an error that can be told. The file appears under its name only when it is whole.

The reading side is `mfgjax.trace`; both follow one format and share no code.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import struct
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

FORMAT = "mfgjax-trace"
VERSION = 1
METADATA_KEY = "mfgjax_trace"
_DTYPE_NAMES = {
    np.dtype(np.float16): "F16",
    np.dtype(np.float32): "F32",
    np.dtype(np.uint8): "U8",
    np.dtype(np.uint16): "U16",
    np.dtype(np.int32): "I32",
}
_PARTIAL = ".partial"
_NO_DIGEST = "sha256:" + "0" * 64
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""

Layout = dict[str, tuple[type[np.generic], tuple[int, ...]]]


class TraceMismatch(ValueError):
    """A file under the wanted name holds something else."""


def trace_path(out: Path, label: str, kind: str, stream: str = "decoder") -> Path:
    """`<label>.<kind>.safetensors`, with `.encoder` before the kind for encoder streams."""
    middle = ".encoder" if stream == "encoder" else ""
    return out / f"{label}{middle}.{kind}.safetensors"


def tokens_layout(
    tokens: int,
    layers: int,
    experts: int,
    top_k: int,
    logit_dtype: type[np.generic],
    *,
    capacity: bool = False,
) -> Layout:
    """Tensors of the tokens form; `capacity`: choices may not have been served."""
    layout: Layout = {
        "logits": (logit_dtype, (tokens, layers, experts)),
        "choices": (index_dtype(experts), (tokens, layers, top_k)),
        "text": (np.int32, (tokens,)),
    }
    return layout | ({"dispatched": (np.uint8, (tokens, layers, top_k))} if capacity else {})


def statistics_layout(
    texts: int, layers: int, experts: int, *, capacity: bool = False, blocks: int = 0
) -> Layout:
    """Tensors of the statistics form; choice bounds of `blocks` blocks of texts."""
    shape = (texts, layers, experts)
    layout: Layout = {
        "token_count": (np.int32, (texts,)),
        "logit_sum": (np.float32, shape),
        "centred_square_sum": (np.float32, shape),
        "dispatch_count": (np.int32, shape),
        "probability_sum": (np.float32, shape),
    }
    if capacity:
        layout["dispatched_count"] = (np.int32, shape)
    if blocks:
        layout["choice_bound"] = (np.float32, (blocks, layers, experts, experts))
    return layout


def index_dtype(experts: int) -> type[np.generic]:
    """The smallest index type of the format for `experts` experts."""
    return np.uint8 if experts <= 2**8 else np.uint16 if experts <= 2**16 else np.int32


class TraceWriter:
    """Fill the tensors of one trace file in place, then `publish` it.

    Until then it lies beside its place under a name of its own, so that two writers never share
    one; leaving the `with` block removes what was not published.

    Args:
        path: the name to publish under.
        metadata: JSON document; `content_digest` is added to it.
        layout: type and shape of the tensors, by name.

    Raises:
        OSError: the disk is full, here or in any other method.
    """

    def __init__(self, path: Path, metadata: dict, layout: Layout):
        self.path = path
        self._partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{_PARTIAL}")
        self.layout = layout
        self._start: dict[str, int] = {}
        # Large items first keeps every tensor aligned.
        ordered = sorted(layout.items(), key=lambda item: -np.dtype(item[1][0]).itemsize)
        # Its width does not depend on the digest, which is known last and put here.
        metadata = {**metadata, "content_digest": _NO_DIGEST}
        header: dict = {"__metadata__": {METADATA_KEY: json.dumps(metadata)}}
        end = 0
        for name, (dtype, shape) in ordered:
            start, end = end, end + int(np.prod(shape)) * np.dtype(dtype).itemsize
            header[name] = {
                "dtype": _DTYPE_NAMES[np.dtype(dtype)],
                "shape": list(shape),
                "data_offsets": [start, end],
            }
            self._start[name] = start
        content = json.dumps(header).encode()
        content += b" " * (-len(content) % 8)
        self._digest_at = 8 + content.index(_NO_DIGEST.encode())
        self._data_start = 8 + len(content)
        _check_room(path.parent, self._data_start + end)
        self._file = self._partial.open("xb+")
        try:
            self._file.write(struct.pack("<Q", len(content)) + content)
            self._file.truncate(self._data_start + end)
        except BaseException:
            self._discard()
            raise

    def write(self, name: str, start: int, rows: np.ndarray) -> None:
        """Put `rows` at row `start` of tensor `name`; rows never written are 0."""
        dtype, shape = self.layout[name]
        if rows.shape[1:] != shape[1:] or start + len(rows) > shape[0]:
            raise ValueError(f"{name}: rows {rows.shape} at {start} do not fit {shape}")
        row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
        self._file.seek(self._data_start + self._start[name] + start * row_bytes)
        self._file.write(np.ascontiguousarray(rows, dtype).data)

    def publish(self) -> None:
        """Give the file its name; from here on it is whole, on disk, and says its digest."""
        self.finish()
        os.replace(self._partial, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def finish(self) -> None:
        """Bring everything to the disk, under the name that is not yet the file's own."""
        if self._file.closed:
            return
        self._file.flush()
        digest = _digest(self._file, self._data_start)
        self._file.seek(self._digest_at)
        self._file.write(digest.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> "TraceWriter":
        return self

    def __exit__(self, *_exc) -> None:
        self._discard()

    def _discard(self) -> None:
        with suppress(OSError):  # what it still held does not fit either
            self._file.close()
        self._partial.unlink(missing_ok=True)


def publish_all(writers: Iterable[TraceWriter]) -> None:
    """Publish the files of one checkpoint: none gets its name before all are on the disk."""
    writers = list(writers)
    for writer in writers:
        writer.finish()
    for writer in writers:
        writer.publish()


def remove_partial(out: Path, label: str) -> None:
    """Delete what killed writers of checkpoint `label` left. Only for who holds its claim."""
    left = re.compile(
        re.escape(label)
        + r"(\.encoder)?\.(statistics|tokens)\.safetensors(\.[0-9a-f]{12})?\.partial"
    )
    for path in out.glob(f"*{_PARTIAL}"):
        if left.fullmatch(path.name):
            path.unlink(missing_ok=True)


def content_digest(path: Path) -> str:
    """SHA-256 of the tensors of a trace file: what `content_digest` in its metadata must be."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return _digest(file, 8 + length)


def _digest(file, start: int) -> str:
    file.seek(start)
    return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _check_room(folder: Path, size: int) -> None:
    """Say before the model runs that its trace will not fit."""
    usage = shutil.disk_usage(folder)
    if usage.total and usage.free < size:  # some network file systems state no sizes at all
        raise OSError(
            errno.ENOSPC,
            f"the disk is full: a trace of {size / 1e6:,.1f} MB, {usage.free / 1e6:,.1f} MB left",
            str(folder),
        )


def read_metadata(path: Path) -> dict:
    """The trace metadata of a complete file.

    Raises:
        TraceMismatch: truncated, or not a trace.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size + 1
        if length > min(size, MAX_HEADER_BYTES):
            raise TraceMismatch(f"{path}: truncated or not a safetensors file: delete it")
        try:
            header = json.loads(file.read(length))
            metadata = json.loads(header.pop("__metadata__")[METADATA_KEY])
            end = max(entry["data_offsets"][1] for entry in header.values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise TraceMismatch(f"{path}: not a trace of this format: delete or move it") from None
    if size != 8 + length + end:
        raise TraceMismatch(f"{path}: {size} bytes where {8 + length + end} belong: delete it")
    return metadata
