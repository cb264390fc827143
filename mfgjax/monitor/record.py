"""The record of one sampled step: per-layer routing health, each number beside its floor or null.

Names of scalars follow what most trainers log: `moe/<metric>/layer_<i>`. By default twelve whatever
the number of layers and experts: the worst layer of each metric, and which layer that is.
"""

import json
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mfgjax.monitor.sums import MonitorError

VERSION = 1
"""Of the record's fields and their meaning."""


@dataclass(frozen=True)
class Record:
    """Numbers of one sampled step. Arrays are `[layer]`, NaN where there is nothing to tell.

    Attributes:
        step: optimiser steps done before it.
        layers: module path or name of each layer.
        tokens: tokens routed, padding excluded.
        dispatches: choices they made, `tokens * top_k`.
        experts: M.
        top_k: K.
        max_violation: MaxVio, `M max load - 1`.
        max_violation_floor: its mean under uniform random choices of as many tokens.
        max_absolute_violation: `max |M load - 1|`.
        max_absolute_violation_floor: the same of it.
        unevenness: squared coefficient of variation of the load.
        unevenness_floor: the same of it.
        entropy: of the load, over log M.
        dead_share: share of the experts without a token.
        max_share: share of the dispatches that the busiest expert gets.
        busiest: which expert that is.
        congestion: signed gamma_eff of mean logits and load.
        congestion_null: what a router without balancing shows with this spread of logits.
        price_slope: minus the slope of the selection bias on the load, corrected for the load's
            noise; NaN without a bias, or where noise is more than half of the load's variance.
        price_spread: largest minus smallest bias, in the bias's units.
        logit_dispersion: standard deviation of an expert's logit over tokens.
        z: mean squared log-sum-exp of the logits.
        router_gradient: norm of the gradient of the router's parameters.
        aux_gradient: auxiliary loss coefficient that the gradient at the logits shows, for a loss
            `alpha M sum f P` per layer.
        broken_share: share of tokens with a logit that is not finite.
        count: tokens of each expert, one array per layer; None if left out.
    """

    step: int
    layers: tuple[str, ...]
    tokens: Int[np.ndarray, " layer"]
    dispatches: Int[np.ndarray, " layer"]
    experts: Int[np.ndarray, " layer"]
    top_k: Int[np.ndarray, " layer"]
    max_violation: Float[np.ndarray, " layer"]
    max_violation_floor: Float[np.ndarray, " layer"]
    max_absolute_violation: Float[np.ndarray, " layer"]
    max_absolute_violation_floor: Float[np.ndarray, " layer"]
    unevenness: Float[np.ndarray, " layer"]
    unevenness_floor: Float[np.ndarray, " layer"]
    entropy: Float[np.ndarray, " layer"]
    dead_share: Float[np.ndarray, " layer"]
    max_share: Float[np.ndarray, " layer"]
    busiest: Int[np.ndarray, " layer"]
    congestion: Float[np.ndarray, " layer"]
    congestion_null: Float[np.ndarray, " layer"]
    price_slope: Float[np.ndarray, " layer"]
    price_spread: Float[np.ndarray, " layer"]
    logit_dispersion: Float[np.ndarray, " layer"]
    z: Float[np.ndarray, " layer"]
    router_gradient: Float[np.ndarray, " layer"]
    aux_gradient: Float[np.ndarray, " layer"]
    broken_share: Float[np.ndarray, " layer"]
    count: tuple[Int[np.ndarray, " expert"], ...] | None = None

    @property
    def congestion_excess(self) -> Float[np.ndarray, " layer"]:
        """Signed congestion minus its null."""
        return self.congestion - self.congestion_null

    @property
    def worst(self) -> int:
        """The layer whose MaxVio is furthest above its floor."""
        above = self.max_violation - self.max_violation_floor
        return int(np.nanargmax(above)) if np.isfinite(above).any() else 0

    def scalars(self, per_layer: bool = False) -> dict[str, float]:
        """What sinks log, by name. Twelve, or every metric of every layer beside them.

        Args:
            per_layer: also `moe/<metric>/layer_<i>` of all.
        """
        worst = self.worst
        found = {
            "moe/worst_layer": worst,
            "moe/max_violation/worst": self.max_violation[worst],
            "moe/max_violation_floor/worst": self.max_violation_floor[worst],
            "moe/max_violation/mean": _reduced(np.nanmean, self.max_violation),
            "moe/entropy/worst": _reduced(np.nanmin, self.entropy),
            "moe/dead_share/worst": _reduced(np.nanmax, self.dead_share),
            "moe/max_share/worst": _reduced(np.nanmax, self.max_share),
            "moe/congestion_excess/median": _reduced(np.nanmedian, self.congestion_excess),
            "moe/price_spread/worst": _reduced(np.nanmax, self.price_spread),
            "moe/logit_dispersion/worst": _reduced(np.nanmax, self.logit_dispersion),
            "moe/z/worst": _reduced(np.nanmax, self.z),
            "moe/router_gradient/worst": _reduced(np.nanmin, self.router_gradient),
        }
        if per_layer:
            for name in (*PER_LAYER, "congestion_excess"):
                for layer, value in enumerate(getattr(self, name)):
                    found[f"moe/{name}/layer_{layer}"] = value
        return {name: float(value) for name, value in found.items() if np.isfinite(value)}

    def to_json(self) -> str:
        """One line; numbers that are not finite become null, but for infinite congestion."""
        row: dict[str, Any] = {"kind": "record", "version": VERSION}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                value = [_plain(x) for x in value.tolist()]
            elif item.name == "count" and value is not None:
                value = [x.tolist() for x in value]
            row[item.name] = value
        return json.dumps(row, allow_nan=False)


PER_LAYER = tuple(
    f.name for f in fields(Record) if f.name not in ("step", "layers", "count", "busiest")
)
"""Fields that are one number per layer."""
_INTEGERS = {"tokens", "dispatches", "experts", "top_k", "busiest"}


def read_record(row: dict[str, Any]) -> Record:
    """A record from a parsed line of `Record.to_json`.

    Raises:
        MonitorError: of another version, or with fields missing.
    """
    if row.get("version") != VERSION:
        raise MonitorError(
            f"a record of version {row.get('version')!r}; this mfgjax reads version {VERSION}. Watch the "
            "run with the mfgjax that wrote it, or write to a new folder"
        )
    values: dict[str, Any] = {}
    for item in fields(Record):
        if item.name not in row:
            raise MonitorError(f"step {row.get('step')}: the record lacks {item.name}")
        value = row[item.name]
        if item.name == "layers":
            value = tuple(value)
        elif item.name == "count":
            value = None if value is None else tuple(np.array(x, np.int64) for x in value)
        elif item.name in _INTEGERS:
            value = np.array(value, np.int64)
        elif item.name != "step":
            value = np.array([_number(x) for x in value], float)
        values[item.name] = value
    return Record(**values)


def _plain(value: float) -> float | str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _number(value: float | str | None) -> float:
    return math.nan if value is None else float(value)


def _reduced(reduce, values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(reduce(known)) if known.size else math.nan
