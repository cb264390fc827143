"""The checkpoints of a sweep that come with token logits: often only a few, they are large."""

from pathlib import Path

from mfgjax.trace.schema import TokenTrace
from mfgjax.trace.storage import read_trace
from mfgjax.trace.sweep import by_revision, traces_folder, training_order


def read_token_traces(
    folder: str | Path, stream: str = "decoder", *, last_only: bool = False
) -> list[TokenTrace]:
    """Traces of kind `tokens` of `folder`, in training order; an empty list where there are none.

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
