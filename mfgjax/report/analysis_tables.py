"""Tables of the analysis that are not built elsewhere, and the published ones beside them."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import pearsonr

from mfgjax.comparison import StaticComparison
from mfgjax.equilibrium import Status
from mfgjax.estimate import (
    decompose_congestion,
    estimate_load,
    estimate_mean_quality,
    unit_weights,
)
from mfgjax.metrics import PERCENTILES, BalanceMetrics, measure_balance, percentiles_over_layers
from mfgjax.report.reference import SOURCE, published_table
from mfgjax.scope import ContinuationSpread, measure_truncation
from mfgjax.trace import Sweep, TraceMetadata


@dataclasses.dataclass(frozen=True)
class AnalysisTable:
    """A table of the report: file name, title, rows, what to know about it."""

    name: str
    title: str
    frame: pd.DataFrame
    note: str = ""


def published(name: str, title: str) -> AnalysisTable:
    """A table of the paper as printed, marked as such."""
    frame = pd.DataFrame(published_table(name))
    note = f"Published numbers ({SOURCE}), not results of this run."
    return AnalysisTable(f"published_{name}", f"Published: {title}", frame, note)


def decomposition_table(dataset: xr.Dataset) -> AnalysisTable:
    """Effective congestion of the last checkpoint, split as in Definition 3.3, with its null."""
    last = dataset.isel(checkpoint=-1)
    alpha = float(dataset.aux_loss_coef)
    parts = decompose_congestion(last.congestion.values, alpha, dataset.experts)
    frame = pd.DataFrame({"layer": last.layer.values})
    for name in ("congestion", "signed", "null", "excess"):
        frame[name] = last[name].values
        bounds = last[f"{name}_interval"]
        frame[f"{name}_low"], frame[f"{name}_high"] = bounds.values.T
    frame["explicit"] = parts.explicit
    frame["implicit"] = parts.implicit
    frame["implicit_over_explicit"] = parts.ratio
    frame["signed_implicit"] = frame.signed - parts.explicit
    frame["status"] = np.where(parts.in_scope, "in scope", "congestion at 0")
    note = (
        "explicit = alpha M; implicit = congestion - explicit (Definition 3.3), in scope only. excess = signed - null "
        "is what logit dispersion does not account for."
    )
    if np.isnan(alpha):
        note += " The traces name no auxiliary loss coefficient: explicit and implicit are unknown."
    return AnalysisTable(
        "decomposition",
        f"Decomposition of congestion, checkpoint {last.checkpoint.item()}",
        frame,
        note,
    )


def balance_tables(sweep: Sweep) -> list[AnalysisTable]:
    """Classic metrics per checkpoint and layer, and their percentiles over layers."""
    texts = sweep.statistics.token_count.shape[1]
    every = unit_weights(texts)[0]
    names = list(BalanceMetrics.__dataclass_fields__)
    rows, spread = [], []
    for index, label in enumerate(sweep.labels):
        load = estimate_load(every, sweep.statistics.dispatch_count[index])
        metrics = measure_balance(load)
        values = {name: np.asarray(getattr(metrics, name), float) for name in names}
        for layer, path in enumerate(sweep.checkpoints[index].layers):
            own = {name: values[name][layer] for name in names}
            rows.append({"checkpoint": label, "layer": path} | own)
        for name in names:
            found = np.asarray(percentiles_over_layers(getattr(metrics, name)))
            ends = {f"p{p:g}": v for p, v in zip(PERCENTILES, found.tolist(), strict=True)}
            spread.append({"checkpoint": label, "metric": name} | ends)
    note = "Definitions: mfgjax.metrics. Percentiles are values of real layers, not interpolated."
    return [
        AnalysisTable("balance", "Classic balance metrics", pd.DataFrame(rows), note),
        AnalysisTable(
            "balance_percentiles", "Their percentiles over layers", pd.DataFrame(spread), note
        ),
    ]


def truncation_table(sweep: Sweep, dataset: xr.Dataset) -> AnalysisTable:
    """Last checkpoint: the model with top-K choice against the model without, and the bounds."""
    last = jax.tree.map(lambda leaf: leaf[-1], sweep.statistics)
    every = unit_weights(last.token_count.shape[0])[0]
    quality = estimate_mean_quality(every, last.token_count, last.logit_sum)
    congestion = jnp.asarray(dataset.congestion.values[-1], quality.dtype)
    measure = jax.jit(jax.vmap(partial(measure_truncation, top_k=dataset.top_k)))
    found = measure(quality, congestion)
    frame = pd.DataFrame({"layer": sweep.checkpoints[-1].layers})
    for name in ("distance", "dropped", "bound", "bound_from_mass", "period"):
        frame[name] = np.asarray(getattr(found, name))
    frame["outcome"] = [Status(int(value)).name.lower() for value in np.asarray(found.status)]
    note = (
        "distance: L1 from the equilibrium to the truncated fixed point at the estimate. bound: "
        "Theorem 5.6, infinite where vacuous; bound_from_mass needs no contraction but a fixed point."
    )
    return AnalysisTable("top_k_truncation", "What top-K choice does to the model", frame, note)


def continuation_table(
    observed: ContinuationSpread,
    shuffled: ContinuationSpread,
    layers: tuple[str, ...],
    fit_error: np.ndarray,
    confidence: float,
) -> AnalysisTable:
    """Continuation spread per pair of layers, with interval, null and correlation with the fit.

    Args:
        observed: point estimate in row 0, resamples after it.
        shuffled: the null.
        layers: names of the layers.
        fit_error: held-out L1 of the MFG per layer; that of a pair's earlier layer is correlated.
        confidence: level of the intervals.
    """
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    frame = pd.DataFrame({"layer": layers[:-1], "next_layer": layers[1:]})
    for name in ("largest", "average"):
        values = np.asarray(getattr(observed, name), float)
        null = np.asarray(getattr(shuffled, name), float)
        frame[name] = values[0]
        frame[f"{name}_low"], frame[f"{name}_high"] = np.nanquantile(values[1:], ends, axis=0)
        frame[f"{name}_null"] = null.mean(0)
        frame[f"{name}_p"] = (1 + (null >= values[:1]).sum(0)) / (1 + len(null))
    frame["fit_error"] = fit_error[:-1]
    note = "largest = eps_l of Section 6.6, 0 to 2; null: favourites shuffled over tokens."
    if len(frame) > 2 and np.ptp(frame.largest) > 0 and np.ptp(frame.fit_error) > 0:
        r, p = pearsonr(frame.largest, frame.fit_error)
        note += f" Correlation of eps_l with the held-out MFG error: r = {r:.2f}, p = {p:.2f}, "
        note += f"{len(frame)} pairs (published: r = 0.63, p = 0.012, 15 pairs)."
    return AnalysisTable("continuation", "Continuation spread of adjacent layers", frame, note)


def cross_architecture_table(
    compared: list[tuple[StaticComparison, TraceMetadata]],
) -> AnalysisTable:
    """Table 6: whether the game predicts held-out load better than uniform, one row per model."""
    rows = [_architecture_row(comparison, metadata) for comparison, metadata in compared]
    rows.sort(key=lambda row: -row["k_over_m"])
    note = "mfg_wins by the 95% paired interval of the difference to the uniform load."
    return AnalysisTable("cross_architecture", "Scope by architecture", pd.DataFrame(rows), note)


def _architecture_row(comparison: StaticComparison, metadata: TraceMetadata) -> dict[str, Any]:
    index = {name: i for i, name in enumerate(comparison.models)}
    mean = comparison.distance["l1"].mean(-1)
    drawn = comparison.resampled[:, index["MFG"]] - comparison.resampled[:, index["uniform"]]
    low, high = np.quantile(drawn.mean(-1), [0.025, 0.975])
    return {
        "model": metadata.model,
        "revision": metadata.revision,
        "experts": metadata.experts,
        "top_k": metadata.top_k,
        "k_over_m": metadata.top_k / metadata.experts,
        "l1_mfg": mean[index["MFG"]],
        "l1_temperature_softmax": mean[index["temperature softmax"]],
        "l1_uniform": mean[index["uniform"]],
        "difference_low": low,
        "difference_high": high,
        "mfg_wins": "yes" if high < 0 else "no" if low > 0 else "not resolved",
    }
