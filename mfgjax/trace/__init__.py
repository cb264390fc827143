"""Traces: what routers did on known texts, one file per checkpoint."""

from mfgjax.trace.handover import from_tensor
from mfgjax.trace.schema import TokenTrace, TraceError, TraceMetadata
from mfgjax.trace.storage import read_trace, write_trace
from mfgjax.trace.stream import StatisticsStream
from mfgjax.trace.sweep import read_sweep

__all__ = [
    "StatisticsStream",
    "TokenTrace",
    "TraceError",
    "TraceMetadata",
    "from_tensor",
    "read_sweep",
    "read_trace",
    "write_trace",
]
