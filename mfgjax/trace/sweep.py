"""A sweep: the traces of one model's checkpoints, in training order."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np

from mfgjax.trace.schema import TextStatistics, TokenTrace, TraceError, TraceMetadata
from mfgjax.trace.statistics import statistics_of
from mfgjax.trace.storage import read_metadata, read_trace


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Statistics of all checkpoints of a run, on the same texts.

    Attributes:
        statistics: sums with leading axis `checkpoint`.
        checkpoints: metadata of each, ordered by step.
    """

    statistics: TextStatistics
    checkpoints: tuple[TraceMetadata, ...]

    @property
    def labels(self) -> list[str]:
        """Step of each checkpoint where known, else its revision."""
        steps = [m.step for m in self.checkpoints]
        known = None not in steps and len(set(steps)) == len(steps)
        return [str(m.step) if known else m.revision for m in self.checkpoints]

    @property
    def in_order(self) -> bool:
        """Whether steps tell the training order: they differ, and at most the last is unknown."""
        known = [m.step for m in self.checkpoints if m.step is not None]
        return len(set(known)) == len(known) >= len(self.checkpoints) - 1


_AGAIN = "and extract again (mfgjax-extract)."
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
    sums, tokens = (by_revision(folder, kind, stream) for kind in ("statistics", "tokens"))
    for revision in sums.keys() & tokens.keys():
        _check_same(*sums[revision], *tokens[revision], f"Delete one of the two {_AGAIN}")
    found = tokens | sums
    if not found:
        raise TraceError(
            f"{folder}: no {stream} traces (*.statistics.safetensors, *.tokens.safetensors). "
            + _near_miss(folder, stream)
        )

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


def by_revision(folder: Path, kind: str, stream: str) -> dict[str, tuple[TraceMetadata, Path]]:
    """The files of one kind and stream.

    Raises:
        TraceError: a damaged file, or two of one revision.
    """
    found: dict[str, tuple[TraceMetadata, Path]] = {}
    for path in sorted(folder.glob(f"*.{kind}.safetensors")):
        metadata = read_metadata(path)
        if metadata.stream != stream:
            continue
        if metadata.revision in found:
            raise TraceError(
                f"{path}: of revision {metadata.revision!r}, as is "
                f"{found[metadata.revision][1].name}. One folder holds one trace of each: move one "
                f"away, or give them names of their own {_AGAIN}"
            )
        found[metadata.revision] = (metadata, path)
    return found


def training_order(item: tuple[TraceMetadata, Path]) -> tuple:
    """Sorts by step, then tokens seen; what states no step (the hub's "main") comes last, by name."""
    metadata, path = item
    natural = [(int(d or 0), word) for word, d in re.findall(r"(\D+)|(\d+)", path.name)]
    return (metadata.step is None, metadata.step or 0, metadata.tokens_seen or 0, natural)


def token_files(folder: str | Path, stream: str = "decoder") -> dict[str, Path]:
    """The files of `folder` that hold every token, by revision.

    Raises:
        TraceError: a damaged file.
    """
    found = by_revision(Path(folder), "tokens", stream)
    return {revision: path for revision, (_, path) in found.items()}


def read_token_traces(
    folder: str | Path, stream: str = "decoder", *, last_only: bool = False
) -> list[TokenTrace]:
    """Traces of kind `tokens` of `folder`, in training order: often of a few checkpoints, or none.

    Args:
        folder: where the trace files are.
        stream: `"decoder"` or `"encoder"`.
        last_only: read the latest one only.

    Raises:
        TraceError: no such folder, or a damaged file.
    """
    found = by_revision(traces_folder(folder), "tokens", stream)
    paths = [path for _, path in sorted(found.values(), key=training_order)]
    traces = [read_trace(path) for path in (paths[-1:] if last_only else paths)]
    return [trace for trace in traces if isinstance(trace, TokenTrace)]


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
        _check_same(
            *(first, paths[0], trace.metadata, path),
            "A sweep holds checkpoints of one model on one set of texts: put others in a folder of "
            "their own.",
        )
    statistics = jax.tree.map(lambda *leaves: np.stack(leaves), *[t.statistics for t in traces])
    return Sweep(statistics, tuple(t.metadata for t in traces))


def _check_same(
    first: TraceMetadata, first_path: Path, other: TraceMetadata, path: Path, remedy: str
) -> None:
    for field in _SAME:
        ours, theirs = getattr(first, field), getattr(other, field)
        if ours != theirs:
            raise TraceError(
                f"{path}: {field} is {theirs!r}, but {ours!r} in {first_path.name}. {remedy}"
            )
