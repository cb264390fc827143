"""The checkpoints of a sweep that come with token logits: often only a few, they are large."""

from pathlib import Path

from mfgjax.trace.schema import TokenTrace
from mfgjax.trace.storage import read_metadata, read_trace
from mfgjax.trace.sweep import traces_folder


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
    found = []
    for path in sorted(traces_folder(folder).glob("*.tokens.safetensors")):
        metadata = read_metadata(path)
        if metadata.stream == stream:  # hub revisions such as "main" have no step and come last
            found.append((metadata.step is None, metadata.step or 0, path.name, path))
    paths = [entry[-1] for entry in sorted(found)]
    traces = [read_trace(path) for path in (paths[-1:] if last_only else paths)]
    return [trace for trace in traces if isinstance(trace, TokenTrace)]
