"""A sweep: the traces of one model's checkpoints, in training order."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from mfgjax.trace.schema import TextStatistics, TraceError, TraceMetadata
from mfgjax.trace.statistics import statistics_of
from mfgjax.trace.storage import read_metadata, read_trace


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Statistics of all checkpoints of a run, on the same texts.

    Attributes:
        statistics: sums with leading axis `checkpoint`.
        checkpoints: metadata of each, ordered by step.
        empty_texts: indices of texts that hold no token (they carry no information).
    """

    statistics: TextStatistics
    checkpoints: tuple[TraceMetadata, ...]
    empty_texts: tuple[int, ...] = ()

    @property
    def labels(self) -> list[str]:
        """Step of each checkpoint where known, else its revision."""
        steps = [m.step for m in self.checkpoints]
        known = None not in steps and len(set(steps)) == len(steps)
        return [str(m.step) if known else m.revision for m in self.checkpoints]


_SAME = ("experts", "top_k", "layers", "stream", "texts_hash", "text_count", "scoring", "model")

_LOOKED_AT = 100
"""Files whose content is looked at where no name is a trace's."""


def traces_folder(folder: str | Path) -> Path:
    """`folder` as a path; raises `TraceError` unless it is a folder."""
    folder = Path(folder)
    if folder.is_file():
        raise TraceError(f"{folder}: a file. Name its folder, or use `mfgjax fit` for one file.")
    if not folder.is_dir():
        raise TraceError(
            f"{folder}: no such folder of traces. Look at the path; without traces of your own, "
            "`mfgjax demo` has some."
        )
    return folder


def trace_files(folder: str | Path, stream: str = "decoder") -> list[Path]:
    """One trace file per checkpoint of `folder`, in training order; statistics before tokens.

    Raises:
        TraceError: no such folder, no traces in it, or a damaged one.
    """
    folder = traces_folder(folder)
    found: dict[str, tuple[TraceMetadata, Path]] = {}
    for kind in ("statistics", "tokens"):
        for path in sorted(folder.glob(f"*.{kind}.safetensors")):
            metadata = read_metadata(path)
            if metadata.stream == stream:
                found.setdefault(metadata.revision, (metadata, path))
    if not found:
        raise TraceError(
            f"{folder}: no {stream} traces (*.statistics.safetensors, *.tokens.safetensors). "
            + _near_miss(folder, stream)
        )

    def training_order(item: tuple[TraceMetadata, Path]):
        metadata, path = item
        unknown = metadata.step is None  # hub revisions such as "main" come last
        return (unknown, metadata.step or 0, path.name)

    return [path for _, path in sorted(found.values(), key=training_order)]


def _near_miss(folder: Path, stream: str) -> str:
    """What may have been meant by a folder without traces of `stream`."""
    for path in sorted(folder.iterdir())[:_LOOKED_AT]:
        try:
            metadata = read_metadata(path)
        except TraceError:
            continue
        if metadata.stream != stream:
            return f"{path.name} is of the {metadata.stream}: choose that stream."
        name = path.name.split(".")[0]
        return (
            f"{path.name} is a trace, under a name that is not looked for: rename it to "
            f"{name}.{metadata.kind}.safetensors."
        )
    for path in sorted(folder.glob("*/*.statistics.safetensors")):
        return f"There are some in {path.parent}: name that folder."
    return "Write some with mfgjax-extract, or run `mfgjax demo` for the bundled ones."


def token_files(folder: str | Path, stream: str = "decoder") -> dict[str, Path]:
    """The files of `folder` that hold every token, by revision.

    Raises:
        TraceError: a damaged file.
    """
    found = {}
    for path in sorted(Path(folder).glob("*.tokens.safetensors")):
        metadata = read_metadata(path)
        if metadata.stream == stream:
            found[metadata.revision] = path
    return found


def read_sweep(folder: str | Path, stream: str = "decoder") -> Sweep:
    """Read every checkpoint of `folder`.

    Args:
        folder: where the trace files are.
        stream: `"decoder"` or `"encoder"`.

    Raises:
        TraceError: as `trace_files`; also checkpoints that differ in experts, layers or texts.
    """
    paths = trace_files(folder, stream)
    traces = [statistics_of(read_trace(path)) for path in paths]
    first = traces[0].metadata
    for path, trace in zip(paths, traces, strict=True):
        for field in _SAME:
            ours, theirs = getattr(first, field), getattr(trace.metadata, field)
            if ours != theirs:
                raise TraceError(
                    f"{path}: {field} is {theirs!r}, but {ours!r} in {paths[0].name}. A sweep holds "
                    "checkpoints of one model on one set of texts: put others in a folder of their own."
                )
    statistics = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[t.statistics for t in traces])
    empty = jnp.flatnonzero((statistics.token_count == 0).all(0)).tolist()
    return Sweep(statistics, tuple(t.metadata for t in traces), tuple(empty))
