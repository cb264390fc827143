"""The price beside the mean field: as variables of a trajectory, and as rows for people."""

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from mfgjax.dynamics.phases import segment_phases
from mfgjax.price import fit_token_congestion
from mfgjax.price.run_price import MOST_VALUES, PriceState, RunPrice
from mfgjax.trace import TokenTrace, TraceError, read_trace
from mfgjax.trace.choice_bound import selection_rule
from mfgjax.trace.sweep import token_files, trace_files

IMPOSED = (
    "the load is as even as its noise while a price acts, as under a loss-free rule: gamma = infinity is "
    "imposed or not excluded, and the mean-field number means nothing. Read the price"
)
NO_LINE = "the price is no line in the load: read the price, not its slope"
NO_PRICE = "no price acts at the choice"
_NOTES = {
    PriceState.LINE: "",
    PriceState.NO_LINE: NO_LINE,
    PriceState.IMPOSED: IMPOSED,
    PriceState.NO_PRICE: NO_PRICE,
    PriceState.CONFLICT: "no bias explains the choices: see mfgjax.price.explain_conflict",
    PriceState.UNKNOWN_RULE: "what the choices rank is not known",
}
_UNITS = {
    "price_slope": "congestion: slope of the price on the load, corrected for the noise of the load",
    "price_explained": "share of the price's variance over experts that a line in the load explains",
    "price_spread": "largest less smallest price, in units of what the router ranks",
    "price_state": "price: " + ", ".join(f"{state.value} {state.name}" for state in PriceState),
    "price_phase": "phase of the price: of mean_price_slope, by its interval",
    "mean_price_slope": "layer average of the price slope; NaN where a layer has none at this checkpoint",
}


def with_price(dataset: xr.Dataset, price: RunPrice | None) -> xr.Dataset:
    """`dataset` with the variables of the price, NaN where traces reveal none.

    `mean_price_slope` is over the layers that have a slope at some checkpoint. Its interval is from the mean
    of the layers' low ends to the mean of their high ends: layers share texts, and this is as wide as if
    their noises went together. `price_phase` is of that average.
    """
    shape = (dataset.checkpoint.size, dataset.layer.size)
    if price is None:
        empty = np.full(shape, np.nan)
        state = np.full(shape, int(PriceState.NOT_READ))
        price = RunPrice(empty, np.full((*shape, 2), np.nan), empty, empty, state)
    grid = ("checkpoint", "layer")
    kept = np.isfinite(price.congestion).any(0)
    mean, ends = np.full(shape[0], np.nan), np.full((shape[0], 2), np.nan)
    if kept.any():
        mean, ends = price.congestion[:, kept].mean(1), price.interval[:, kept].mean(1)
        ends = np.where(np.isfinite(mean)[:, None], ends, np.nan)
    out = dataset.assign(
        price_slope=(grid, price.congestion),
        price_slope_interval=((*grid, "bound"), price.interval),
        price_explained=(grid, price.explained),
        price_spread=(grid, price.spread),
        price_state=(grid, price.state),
        mean_price_slope=("checkpoint", mean),
        mean_price_slope_interval=(("checkpoint", "bound"), ends),
    )
    if has_price(out):
        out = out.assign(_phases(out))
    for name, text in _UNITS.items():
        if name in out:
            out[name].attrs["long_name"] = text
    return out


def has_price(dataset: xr.Dataset) -> bool:
    """Whether a price acts at the choice of some checkpoint, and has a slope."""
    if "price_state" not in dataset or not (dataset.price_state <= PriceState.IMPOSED).any():
        return False
    return bool(np.isfinite(dataset.mean_price_slope).any())


def _phases(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    """Phases of `mean_price_slope`, where every checkpoint has one and steps tell their order."""
    slope, ends = dataset.mean_price_slope.values, dataset.mean_price_slope_interval.values
    if not dataset.attrs.get("in_order") or len(slope) < 3 or not np.isfinite(slope).all():
        return {}
    low, high = np.where(np.isfinite(ends).all(1)[:, None], ends, np.nan).T
    found = segment_phases(
        slope, low=low, high=high, confidence=dataset.confidence, seed=dataset.seed
    )
    return {
        "price_phase": xr.DataArray(
            np.array(found.names),
            dims="checkpoint",
            attrs={"gain": found.gain, "misfit": found.misfit, "noise": found.noise},
        ),
        "price_phase_probability": xr.DataArray(found.label_probability, dims="checkpoint"),
    }


def price_rows(
    traces: str | Path, dataset: xr.Dataset, *, stream: str = "decoder"
) -> pd.DataFrame | None:
    """A row per checkpoint and layer whose choices were read; None where there are none.

    The last checkpoint gets its token congestion too, where its tokens are there and have at most 20
    million logits.

    Args:
        traces: the folder that `dataset` is of.
        dataset: with prices, as from `mfgjax.track`.
        stream: `"decoder"` or `"encoder"`.
    """
    if "price_state" not in dataset or (dataset.price_state == PriceState.NOT_READ).all():
        return None
    name = "corrected" if "corrected" in dataset else "signed"
    games = _games(traces, stream)
    last, rows = dataset.checkpoint.size - 1, []
    # Arrays first: a cell of a Dataset takes a millisecond to reach.
    states, interval = dataset.price_state.values, dataset.price_slope_interval.values
    slope, explained = dataset.price_slope.values, dataset.price_explained.values
    spread, mean_field = dataset.price_spread.values, dataset[name].values
    steps, layers = dataset.checkpoint.values.tolist(), dataset.layer.values.tolist()
    for place, step in enumerate(steps):
        for layer, layer_name in enumerate(layers):
            state = PriceState(int(states[place, layer]))
            if state == PriceState.NOT_READ:
                continue
            game = games.get(layer) if place == last else None
            at = place, layer
            low, high = interval[at]
            rows.append(
                {
                    "checkpoint": step,
                    "layer": layer_name,
                    "price_slope": float(slope[at]),
                    "price_slope_low": low,
                    "price_slope_high": high,
                    "explained": float(explained[at]),
                    "price_spread": float(spread[at]),
                    "token_congestion": np.nan if game is None else game.congestion,
                    "token_residual": np.nan if game is None else game.residual,
                    "mean_field": float(mean_field[at]),
                    "note": _NOTES[state],
                }
            )
    return pd.DataFrame(rows)


def _games(traces: str | Path, stream: str) -> dict:
    """Token congestion of the last checkpoint by layer, where its tokens are there and not too many."""
    own = read_trace(trace_files(traces, stream)[-1])
    if not isinstance(own, TokenTrace):
        path = token_files(traces, stream).get(own.metadata.revision)
        if path is None:
            return {}
        own = read_trace(path)
    if not isinstance(own, TokenTrace) or own.logits.size > MOST_VALUES:
        return {}
    found = {}
    for layer in range(len(own.metadata.layers)):
        try:
            rule = selection_rule(own.metadata, layer, own.selection_bias is not None)
        except TraceError:
            continue
        found[layer] = fit_token_congestion(own, layer, rule=rule)
    return found
