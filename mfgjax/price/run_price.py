"""The price along a training run: slope, interval and state of every checkpoint and layer."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mfgjax.numerics.status import NamedInteger
from mfgjax.price.bounds import RevealedPrice
from mfgjax.price.reveal import reveal_price
from mfgjax.price.slope import PriceSlope, estimate_price_slope
from mfgjax.trace import TokenTrace, TraceError, read_trace
from mfgjax.trace.schema import StatisticsTrace
from mfgjax.trace.sweep import token_files, trace_files

MOST_VALUES = 20_000_000
"""Logits of a checkpoint beyond which its tokens are not searched: it would take minutes."""
_LINE = 0.5
"""Share of the price's variance that a line in the load explains, below which it is called none."""
_FEWEST_TEXTS = 3


class PriceState(NamedInteger):
    """What a checkpoint's choices say of a layer's price."""

    LINE = 0
    """A line in the load explains most of the price: its slope is the congestion."""
    NO_LINE = 1
    """The price is no line in the load: read the price, not its slope."""
    IMPOSED = 2
    """The load is as even as its noise while a price acts: gamma = infinity is not excluded."""
    NO_PRICE = 3
    """Every interval holds 0: no price acts at the choice."""
    CONFLICT = 4
    """No bias explains the choices (`explain_conflict` says how many)."""
    UNKNOWN_RULE = 5
    """What the choices rank is not known."""
    NOT_READ = 6
    """The trace holds no bounds, and no tokens or too many."""


@dataclasses.dataclass(frozen=True)
class RunPrice:
    """Fields as in `PriceSlope`, with a leading checkpoint; NaN where nothing is known.

    Attributes:
        congestion: corrected slope of the price on the load.
        interval: `[checkpoint, layer, 2]`, over texts or documents.
        explained: share of the price's variance that a line in the load explains.
        spread: largest less smallest price, of experts with a two-sided interval.
        state: a `PriceState` value.
    """

    congestion: Float[np.ndarray, "checkpoint layer"]
    interval: Float[np.ndarray, "checkpoint layer 2"]
    explained: Float[np.ndarray, "checkpoint layer"]
    spread: Float[np.ndarray, "checkpoint layer"]
    state: Int[np.ndarray, "checkpoint layer"]


def read_run_price(
    traces: str | Path,
    *,
    stream: str = "decoder",
    documents: Sequence | None = None,
    level: float = 0.95,
) -> RunPrice | None:
    """Prices of a folder of traces, in training order. On the host.

    A trace of statistics needs `choice_bound`, else the checkpoint's tokens are read, where there are some
    and at most 20 million logits. A slope needs three texts or documents.

    Returns:
        None where no checkpoint reveals a price.

    Raises:
        TraceError: a damaged trace.
    """
    tokens = token_files(traces, stream)
    found = []
    for path in trace_files(traces, stream):
        source = _source(read_trace(path), tokens)
        found.append(None if source is None else _of_checkpoint(source, documents, level))
    known = [one for one in found if one is not None]
    if not known:
        return None
    layers = len(known[0].state)
    found = [_nothing(layers) if one is None else one for one in found]
    fields = [field.name for field in dataclasses.fields(RunPrice)]
    return RunPrice(**{name: np.stack([getattr(one, name) for one in found]) for name in fields})


def _source(trace, tokens: dict[str, Path]) -> TokenTrace | StatisticsTrace | None:
    """What the price of a checkpoint is read from."""
    if isinstance(trace, StatisticsTrace):
        if trace.choice_bound is not None:
            return trace
        if trace.metadata.revision not in tokens:
            return None
        trace = read_trace(tokens[trace.metadata.revision])
    assert isinstance(trace, TokenTrace)
    return trace if trace.logits.size <= MOST_VALUES else None


def _of_checkpoint(source, documents, level: float) -> RunPrice | None:
    """Without the leading checkpoint."""
    texts = source.metadata.text_count if documents is None else len(set(documents))
    if texts < _FEWEST_TEXTS:
        return None
    try:
        revealed = reveal_price(source, refused_share=1.0)
    except TraceError:  # no rule for any layer: nothing is revealed, and nothing is wrong
        return None
    slope = estimate_price_slope(source, revealed=revealed, documents=documents, level=level)
    layers = range(len(revealed.layers))
    return RunPrice(
        slope.congestion,
        slope.interval,
        slope.explained,
        np.array([_spread(revealed, layer) for layer in layers]),
        np.array([_state(revealed, slope, layer) for layer in layers]),
    )


def _nothing(layers: int) -> RunPrice:
    empty = np.full(layers, np.nan)
    state = np.full(layers, int(PriceState.NOT_READ))
    return RunPrice(empty, np.full((layers, 2), np.nan), empty, empty, state)


def _spread(revealed: RevealedPrice, layer: int) -> float:
    known = revealed.bias[layer][revealed.two_sided[layer]]
    return float(np.ptp(known)) if known.size else np.nan


def _state(revealed: RevealedPrice, slope: PriceSlope, layer: int) -> PriceState:
    if revealed.rules[layer] is None:
        return PriceState.UNKNOWN_RULE
    if revealed.conflict[layer]:
        return PriceState.CONFLICT
    if not (revealed.difference_low[layer] > 0).any():
        return PriceState.NO_PRICE
    if not np.isfinite(slope.interval[layer]).all():
        return PriceState.IMPOSED
    return PriceState.NO_LINE if slope.explained[layer] < _LINE else PriceState.LINE
