"""Traces: what routers did on known texts, one file per checkpoint."""

from mfgjax.trace.choice_bound import SelectionRule, selection_rule
from mfgjax.trace.handover import from_tensor
from mfgjax.trace.schema import (
    StatisticsTrace,
    TextStatistics,
    TokenTrace,
    TraceError,
    TraceMetadata,
)
from mfgjax.trace.statistics import per_text_statistics, statistics_of
from mfgjax.trace.storage import read_metadata, read_trace, write_trace
from mfgjax.trace.stream import StatisticsStream
from mfgjax.trace.sweep import Sweep, read_sweep, token_files
from mfgjax.trace.token_traces import read_token_traces

__all__ = [
    "SelectionRule",
    "StatisticsStream",
    "StatisticsTrace",
    "Sweep",
    "TextStatistics",
    "TokenTrace",
    "TraceError",
    "TraceMetadata",
    "from_tensor",
    "per_text_statistics",
    "read_metadata",
    "read_sweep",
    "read_token_traces",
    "read_trace",
    "selection_rule",
    "statistics_of",
    "token_files",
    "write_trace",
]
