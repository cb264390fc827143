"""Write traces, version 1: one safetensors file per checkpoint and stream, never half a file.

The tensors are laid out before the first token is routed (their sizes follow from the
tokenised texts) and filled in place on disk, so that memory does not grow with the texts. The
file appears under its name only when it is whole.

The reading side is `mfgjax.trace`; both follow one format and share no code.
"""

import json
import os
import struct
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
    tokens: int, layers: int, experts: int, top_k: int, logit_dtype: type[np.generic]
) -> Layout:
    """Tensors of the tokens form."""
    return {
        "logits": (logit_dtype, (tokens, layers, experts)),
        "choices": (index_dtype(experts), (tokens, layers, top_k)),
        "text": (np.int32, (tokens,)),
    }


def statistics_layout(texts: int, layers: int, experts: int) -> Layout:
    """Tensors of the statistics form."""
    shape = (texts, layers, experts)
    return {
        "token_count": (np.int32, (texts,)),
        "logit_sum": (np.float32, shape),
        "centred_square_sum": (np.float32, shape),
        "dispatch_count": (np.int32, shape),
        "probability_sum": (np.float32, shape),
    }


def index_dtype(experts: int) -> type[np.generic]:
    """The smallest index type of the format for `experts` experts."""
    return np.uint8 if experts <= 2**8 else np.uint16 if experts <= 2**16 else np.int32


class TraceWriter:
    """Fill the tensors of one trace file in place; leave the `with` normally to publish it.

    Attributes:
        tensors: zero-filled arrays on disk, by name.
    """

    def __init__(self, path: Path, metadata: dict, layout: Layout):
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        # Large items first keeps every tensor aligned.
        ordered = sorted(layout.items(), key=lambda item: -np.dtype(item[1][0]).itemsize)
        header: dict = {"__metadata__": {METADATA_KEY: json.dumps(metadata)}}
        end = 0
        places = {}
        for name, (dtype, shape) in ordered:
            start, end = end, end + int(np.prod(shape)) * np.dtype(dtype).itemsize
            header[name] = {
                "dtype": _DTYPE_NAMES[np.dtype(dtype)],
                "shape": list(shape),
                "data_offsets": [start, end],
            }
            places[name] = (dtype, shape, start)
        content = json.dumps(header).encode()
        content += b" " * (-len(content) % 8)
        with self._partial.open("wb") as file:
            file.write(struct.pack("<Q", len(content)) + content)
            data_start = file.tell()
            file.truncate(data_start + end)
        self.tensors = {
            name: np.memmap(self._partial, dtype, "r+", data_start + start, shape)
            for name, (dtype, shape, start) in places.items()
        }

    def __enter__(self) -> "TraceWriter":
        return self

    def __exit__(self, exc_type, *_exc) -> None:
        for tensor in self.tensors.values():
            tensor.flush()
        self.tensors = {}
        if exc_type is not None:
            self._partial.unlink(missing_ok=True)
            return
        with self._partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(self._partial, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


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


def is_done(path: Path, wanted: dict) -> bool:
    """Whether `path` is a complete trace of what `wanted` describes.

    Args:
        path: the trace file.
        wanted: metadata that must agree; a nested dictionary is compared key by key.

    Raises:
        TraceMismatch: a file is there but broken, or of another model, text set or setting.
    """
    if not path.exists():
        return False
    found = read_metadata(path)
    for key, value in wanted.items():
        pairs = (
            [(f"{key}.{k}", v, found.get(key, {}).get(k)) for k, v in value.items()]
            if isinstance(value, dict)
            else [(key, value, found.get(key))]
        )
        for name, want, have in pairs:
            if want != have:
                raise TraceMismatch(
                    f"{path} was made with {name} = {have!r}, now {want!r}: choose another --out, "
                    "or pass --overwrite"
                )
    return True
