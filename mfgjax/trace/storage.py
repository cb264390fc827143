"""Reading and writing traces: safetensors, checked on both sides, written atomically."""

import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from mfgjax.trace.schema import (
    METADATA_KEY,
    StatisticsTrace,
    TextStatistics,
    TokenTrace,
    TraceError,
    TraceMetadata,
)
from mfgjax.trace.validate import check_metadata, check_tensors

Trace = TokenTrace | StatisticsTrace


def read_metadata(path: str | Path) -> TraceMetadata:
    """The metadata of a trace file, without reading its tensors. Raises `TraceError`."""
    with _open(Path(path)) as file:
        return _metadata(file, str(path))


def read_trace(path: str | Path) -> Trace:
    """Read and check one trace file.

    Raises:
        TraceError: missing, truncated, mis-shaped or NaN-holding file, probabilities in place of
            logits, or a version this package does not know. Names file, tensor and remedy.
    """
    with _open(Path(path)) as file:
        metadata = _metadata(file, str(path))
        try:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (safetensors.SafetensorError, TypeError, ValueError) as error:
            raise TraceError(f"{path}: cannot read its tensors ({error}).") from None
    check_tensors(tensors, metadata, str(path))
    if metadata.kind == "tokens":
        return TokenTrace(
            metadata,
            tensors["logits"],
            tensors["choices"],
            tensors["text"],
            tensors.get("selection_bias"),
            tensors.get("dispatched"),
        )
    names = TextStatistics.__dataclass_fields__
    sums: dict[str, Any] = {name: np.asarray(tensors[name], np.float32) for name in names}
    return StatisticsTrace(
        metadata,
        TextStatistics(**sums),
        tensors.get("selection_bias"),
        tensors.get("dispatched_count"),
        tensors.get("choice_bound"),
    )


def write_trace(path: str | Path, trace: Trace) -> None:
    """Check `trace` and write it atomically: the file is there whole, or not at all."""
    source = f"trace for {path}"
    check_metadata(trace.metadata, source)
    tensors = _tensors(trace, source)
    check_tensors(tensors, trace.metadata, source)
    content = save(tensors, {METADATA_KEY: trace.metadata.to_json()})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, and the permissions that any file gets: tempfile's are for the owner alone.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _tensors(trace: Trace, source: str) -> dict[str, np.ndarray]:
    if isinstance(trace, TokenTrace):
        tensors = {"logits": trace.logits, "choices": trace.choices, "text": trace.text}
        extra = {"selection_bias": trace.selection_bias, "dispatched": trace.dispatched}
    else:
        names = TextStatistics.__dataclass_fields__
        tensors = {name: np.asarray(getattr(trace.statistics, name)) for name in names}
        for name in ("token_count", "dispatch_count"):
            if not (np.abs(tensors[name]) < 2**31).all():  # false for NaN too
                raise TraceError(f"{source}: tensor {name!r} holds what is no count.")
            tensors[name] = tensors[name].round().astype(np.int32)
        extra = {
            "selection_bias": trace.selection_bias,
            "dispatched_count": trace.dispatched_count,
            "choice_bound": trace.choice_bound,
        }
    tensors |= {name: value for name, value in extra.items() if value is not None}
    return {name: np.ascontiguousarray(value) for name, value in tensors.items()}


def _open(path: Path):
    if not path.is_file():
        raise TraceError(f"{path}: no such trace file.")
    if path.suffix != ".safetensors":
        raise TraceError(
            f"{path}: not a trace. Name a file *.statistics.safetensors or *.tokens.safetensors, or the "
            "folder of such files, as mfgjax-extract or `mfgjax import` writes them."
        )
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise TraceError(
            f"{path}: truncated or not a safetensors file ({error}). Delete it and extract again."
        ) from None


def _metadata(file, source: str) -> TraceMetadata:
    header = file.metadata() or {}
    if METADATA_KEY not in header:
        raise TraceError(f"{source}: a safetensors file, but not an mfgjax trace.")
    metadata = TraceMetadata.from_json(header[METADATA_KEY], source)
    check_metadata(metadata, source)
    return metadata
