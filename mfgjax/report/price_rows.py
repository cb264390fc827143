"""Price, token and mean-field congestion side by side, a row per checkpoint and layer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from mfgjax.price import (
    RevealedPrice,
    estimate_price_slope,
    fit_token_congestion,
    reveal_price,
)
from mfgjax.trace import TokenTrace, TraceError, read_trace, token_files
from mfgjax.trace.sweep import trace_files

MOST_VALUES = 20_000_000
"""Logits of a checkpoint beyond which its token congestion is left out: it would take minutes."""
IMPOSED = (
    "the load is as even as its noise while a price acts, as under a loss-free rule: gamma = infinity is "
    "imposed or not excluded, and the mean-field number means nothing. Read the price"
)
NO_LINE = "the price is no line in the load: read the price, not its slope"
NO_PRICE = "no price acts at the choice"
_LINE = 0.5
"""Share of the price's variance that a line in the load explains, below which it is called none."""


def price_rows(
    traces: str | Path,
    dataset: xr.Dataset,
    *,
    stream: str = "decoder",
    documents: Sequence | None = None,
    level: float = 0.95,
) -> pd.DataFrame | None:
    """The rows of the checkpoints whose traces reveal a price; None where none does.

    A trace of statistics needs `choice_bound`, else the checkpoint's tokens are read. The last checkpoint
    gets its token congestion too, where its tokens are there and have at most 20 million logits.

    Args:
        traces: the folder that `dataset` is of.
        dataset: from `mfgjax.track`.
        stream: `"decoder"` or `"encoder"`.
        documents: document of each text, where documents were cut into texts.
        level: nominal coverage.
    """
    tokens, paths = token_files(traces, stream), trace_files(traces, stream)
    rows = []
    for place, path in enumerate(paths):
        source = read_trace(path)
        own = tokens.get(source.metadata.revision)
        bounded = isinstance(source, TokenTrace) or source.choice_bound is not None
        last = place == len(paths) - 1
        whole = source
        if own is not None and own != path and (last or not bounded):
            whole = read_trace(own)
        if not bounded:
            source = whole
        if not isinstance(source, TokenTrace) and source.choice_bound is None:
            continue
        try:
            revealed = reveal_price(source, refused_share=1.0)
        except TraceError:  # no rule for any layer: nothing is revealed, and nothing is wrong
            continue
        slope = estimate_price_slope(source, revealed=revealed, documents=documents, level=level)
        played = last and isinstance(whole, TokenTrace) and whole.logits.size <= MOST_VALUES
        for layer, name in enumerate(revealed.layers):
            game = None
            if played and isinstance(whole, TokenTrace) and revealed.rules[layer] is not None:
                game = fit_token_congestion(whole, layer, rule=revealed.rules[layer])
            rows.append(
                {
                    "checkpoint": dataset.checkpoint.values[place],
                    "layer": name,
                    "price_slope": slope.congestion[layer],
                    "price_slope_low": slope.interval[layer, 0],
                    "price_slope_high": slope.interval[layer, 1],
                    "explained": slope.explained[layer],
                    "price_spread": np.ptp(_known(revealed, layer)),
                    "token_congestion": np.nan if game is None else game.congestion,
                    "token_residual": np.nan if game is None else game.residual,
                    "mean_field": _mean_field(dataset, place, layer),
                    "note": _note(revealed, slope, layer),
                }
            )
    return pd.DataFrame(rows) if rows else None


def _known(revealed: RevealedPrice, layer: int) -> np.ndarray:
    known = revealed.bias[layer][revealed.two_sided[layer]]
    return known if known.size else np.full(1, np.nan)


def _mean_field(dataset: xr.Dataset, place: int, layer: int) -> float:
    name = "corrected" if "corrected" in dataset else "signed"
    return float(dataset[name][place, layer])


def _note(revealed: RevealedPrice, slope, layer: int) -> str:
    if revealed.rules[layer] is None:
        return "what the choices rank is not known"
    if revealed.conflict[layer]:
        return "no bias explains the choices: see mfgjax.price.explain_conflict"
    if not (revealed.difference_low[layer] > 0).any():
        return NO_PRICE
    if not np.isfinite(slope.interval[layer]).all():
        return IMPOSED
    return NO_LINE if slope.explained[layer] < _LINE else ""
