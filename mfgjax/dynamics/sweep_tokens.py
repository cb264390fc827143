"""Tokens of the checkpoints of a sweep, for the qualities that per-text sums cannot give."""

from collections.abc import Callable, Iterable
from pathlib import Path

import jax.numpy as jnp

from mfgjax.estimate.inference.token_quality import TokenStatistics, with_tokens
from mfgjax.trace import TokenTrace, TraceError, read_trace
from mfgjax.trace.schema import TextStatistics
from mfgjax.trace.sweep import Sweep, token_files

TokensOf = Callable[[int, TextStatistics], TokenStatistics | None]


def tokens_of_sweep(
    traces: str | Path, sweep: Sweep, *, needed_by: Iterable[str] | None = None
) -> TokensOf:
    """A function from a checkpoint's index and sums to its `TokenStatistics`, read when asked.

    It returns None for a checkpoint that has no tokens form in `traces`.

    Args:
        traces: the folder that `sweep` was read from.
        sweep: its checkpoints.
        needed_by: what cannot do without, for the message; None if missing tokens are all right.

    Raises:
        TraceError: tokens are missing and needed. The message names the checkpoints.
    """
    files = token_files(traces, sweep.checkpoints[0].stream)
    missing = [m.revision for m in sweep.checkpoints if m.revision not in files]
    if missing and needed_by is not None:
        shown = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        raise TraceError(
            f"{traces}: quality {', '.join(needed_by)} needs every token's logits, and {len(missing)} "
            f"of {len(sweep.checkpoints)} checkpoints have only sums over texts ({shown}). Extract "
            "them with --tokens, put those that have tokens in a folder of their own, or choose mean, "
            "split-half or log-probability."
        )

    def tokens_of(index: int, statistics: TextStatistics) -> TokenStatistics | None:
        path = files.get(sweep.checkpoints[index].revision)
        if path is None:
            return None
        trace = read_trace(path)
        assert isinstance(trace, TokenTrace)  # the reader goes by the kind in the file
        if trace.metadata.texts_hash != sweep.checkpoints[index].texts_hash:
            raise TraceError(
                f"{path}: holds other texts than the statistics of {trace.metadata.revision}. "
                "Delete one of the two and extract it again."
            )
        return with_tokens(statistics, jnp.asarray(trace.logits), jnp.asarray(trace.text))

    return tokens_of
