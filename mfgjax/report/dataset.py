"""Labels for a trajectory: an xarray Dataset with dims checkpoint, layer, resample and bound.

The numbers are computed without labels; names, steps and units are put on here, at the boundary.
"""

from typing import Any

import jax
import numpy as np
import xarray as xr

import mfgjax
from mfgjax.dynamics.intervals import (
    IntervalName,
    Variables,
    corrected_l1,
    corrected_signed,
    excess_over_dispersion,
    layer_mean,
    phase_series,
    standard_interval,
)
from mfgjax.dynamics.paper_tests import layer_patterns
from mfgjax.dynamics.phases import segment_phases
from mfgjax.dynamics.trajectory import Trajectory
from mfgjax.estimate.congestion.diagnostics import critical_congestion, safety_margin
from mfgjax.estimate.inference.quality import Quality
from mfgjax.numerics.status import Status
from mfgjax.trace.sweep import Sweep

_UNITS = {
    "congestion": "effective congestion, Definition 3.1 of arXiv 2604.04230 (L1, >= 0)",
    "residual": "L1 best-response residual at the estimate",
    "minima": "local minima of the L1 residual",
    "at_boundary": "the estimate is the boundary congestion = 0",
    "status": "fit status: " + ", ".join(f"{status.value} {status.name}" for status in Status),
    "unclipped": "the same, searched from -2 M on",
    "signed": "signed maximum-likelihood congestion",
    "scale_sensitivity": "what signed rises by if the scale of the logits rises by 100%, at first order",
    "quality_spread": "B0, max - min of quality",
    "entropy": "entropy of the load / log M",
    "dispersion": "token-level standard deviation of the router logits",
    "max_load": "largest dispatch fraction",
    "dead_experts": "experts that no token chose",
    "critical_congestion": "gamma_c = M B0 / (M - 1)",
    "safety_margin": "congestion / gamma_c",
}
_CORRECTED = {
    "corrected": "signed congestion, corrected for the noise of few texts",
    "corrected_l1": "Definition 3.1, corrected for the noise of few texts (>= 0)",
    "dispersion_null": "congestion that logit dispersion alone produces, corrected for few texts",
    "dispersion_excess": "corrected signed congestion minus the dispersion null, interval paired",
}
_INTERVALS = ("congestion", "signed", "quality_spread", "entropy", "dispersion")
_AVERAGED = (
    *_INTERVALS,
    "residual",
    "scale_sensitivity",
    "critical_congestion",
    "safety_margin",
    "max_load",
)


def trajectory_dataset(
    trajectory: Trajectory,
    sweep: Sweep,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    quality: Quality = "mean",
    interval: IntervalName = "corrected",
) -> xr.Dataset:
    """Label `trajectory`, add intervals, layer averages, corrected estimates and phases.

    Args:
        trajectory: estimates of `sweep`.
        sweep: what they are of.
        confidence: level of the intervals, in (0, 1).
        seed: of the phase probabilities and the simultaneous bands.
        quality: that the estimates were made with.
        interval: from `mfgjax.dynamics.intervals.INTERVALS`. `"corrected"`: of `congestion` and `signed`
            those of their corrected estimates, of the rest the jackknife's. `dispersion_null` and
            `dispersion_excess` are those of `mfgjax.estimate.dispersion_excess` whatever it is.
            `congestion_of_layers` there gives a group of layers the same interval.

    Returns:
        Per variable `v`: `v` (checkpoint, layer); for those with intervals `v_interval`
        (checkpoint, layer, bound); `mean_v` (checkpoint) and `mean_v_interval`. With resamples also
        `corrected` (signed) and `corrected_l1` with intervals whatever `interval` is, and of their
        layer averages the `_change` since the checkpoint before, with a paired interval, and a
        `_band` that holds the whole trajectory with probability `confidence`. The resampled
        `congestion_resamples`, `signed_resamples` and `corrected_l1_resamples` (resample,
        checkpoint, layer; the last not cut off at 0); `phase` and its probability (checkpoint), of
        the corrected average where every checkpoint has one and steps tell their order; the
        paper's per-layer tests (layer).

        `mean_congestion` is the paper's average, of estimates >= 0: above 0 also where no layer has
        congestion. `mean_corrected_l1` and its interval average first and are cut off at 0 last
        (`mfgjax.dynamics.intervals.average_over_layers`).
    """
    metadata = sweep.checkpoints[0]
    estimate = _derived(trajectory.estimate, metadata.experts)
    kept = trajectory.resampled
    resampled = {name: np.asarray(getattr(kept, name)) for name in ("congestion", "signed")}
    if interval != "corrected":  # whose other intervals are the jackknife's
        resampled = _derived(kept, metadata.experts)
    grid = ("checkpoint", "layer")
    data = {name: xr.DataArray(values, dims=grid) for name, values in estimate.items()}
    excess = excess_over_dispersion(trajectory, confidence, metadata.layers)
    data |= _labelled({name: found for name, found in excess.items() if not _ends(name)})
    for name in _AVERAGED:
        data[f"mean_{name}"] = xr.DataArray(layer_mean(estimate[name]), dims="checkpoint")
    if len(resampled["congestion"]):
        data |= _labelled({name: found for name, found in excess.items() if _ends(name)})
        left_out = _derived(trajectory.left_out, metadata.experts)
        for name in _INTERVALS:
            drawn = resampled.get(name, estimate[name])
            sources = (estimate[name], drawn, left_out[name])
            means = (layer_mean(sources[0]), layer_mean(drawn), layer_mean(sources[2]))
            data[f"{name}_interval"] = xr.DataArray(
                standard_interval(interval, *sources, confidence), dims=(*grid, "bound")
            )
            data[f"mean_{name}_interval"] = xr.DataArray(
                standard_interval(interval, *means, confidence),
                dims=("checkpoint", "bound"),
            )
        corrected = corrected_signed(trajectory, confidence, seed)
        corrected |= corrected_l1(trajectory, confidence)
        data |= _labelled(corrected)
        if interval == "corrected":
            for name, source in (("signed", "corrected"), ("congestion", "corrected_l1")):
                data[f"{name}_interval"] = data[f"{source}_interval"]
                data[f"mean_{name}_interval"] = data[f"mean_{source}_interval"]
        for name in ("congestion", "signed"):
            data[f"{name}_resamples"] = xr.DataArray(resampled[name], dims=("resample", *grid))
        if interval != "corrected":
            data["congestion_left_out"] = xr.DataArray(
                left_out["congestion"], dims=("group", *grid)
            )
    data |= _patterns(estimate["congestion"])
    if sweep.in_order:  # phases of checkpoints in another order would mean nothing
        data |= _phases(*phase_series(trajectory, confidence), seed)
    dataset = xr.Dataset(data, coords=_coordinates(sweep))
    for name, text in (_UNITS | _CORRECTED).items():
        for label in (name, f"mean_{name}"):
            if label in dataset:
                dataset[label].attrs["long_name"] = text
    dataset.attrs = {
        "model": metadata.model,
        "experts": metadata.experts,
        "top_k": metadata.top_k,
        "aux_loss_coef": np.nan if metadata.aux_loss_coef is None else metadata.aux_loss_coef,
        "texts": metadata.text_count,
        "equal_texts": _equal_texts(np.asarray(sweep.statistics.token_count)[0]),
        "quality": quality,
        "interval": interval,
        "confidence": confidence,
        "seed": seed,
        "in_order": int(sweep.in_order),  # a netCDF attribute is no bool
        "resamples": len(resampled["congestion"]),
        "device": jax.devices()[0].device_kind,
        "versions": f"mfgjax {mfgjax.__version__}, jax {jax.__version__}",
    }
    return dataset


def _equal_texts(tokens: np.ndarray) -> float:
    """How many texts of one length weigh as unevenly as these: (sum n)^2 / sum n^2 (Kish 1965)."""
    tokens = np.asarray(tokens, float)
    return float(tokens.sum() ** 2 / (tokens**2).sum())


def _derived(estimates, experts: int) -> dict[str, np.ndarray]:
    """The estimates by name, with those that follow from them."""
    values: dict[str, Any] = {n: np.asarray(getattr(estimates, n)) for n in _fields(estimates)}
    spread, congestion = values["quality_spread"], values["congestion"]
    values["critical_congestion"] = critical_congestion(spread, experts)
    values["safety_margin"] = safety_margin(congestion, spread, experts)
    return values


def _labelled(variables: Variables) -> dict[str, xr.DataArray]:
    return {name: xr.DataArray(values, dims=dims) for name, (dims, values) in variables.items()}


def _ends(name: str) -> bool:
    return name.endswith("_interval")


def _fields(estimates) -> list[str]:
    return list(type(estimates).__dataclass_fields__)


def _patterns(congestion) -> dict[str, xr.DataArray]:
    pattern = layer_patterns(congestion)
    return {
        "layer_surge": xr.DataArray(pattern.surge, dims="layer"),
        "layer_relaxation": xr.DataArray(pattern.relaxation, dims="layer"),
        "layer_starts_at_zero": xr.DataArray(pattern.from_zero, dims="layer"),
    }


def _phases(series, resamples, seed: int) -> dict[str, xr.DataArray]:
    if len(series) < 3 or not np.isfinite(series).all():
        return {}
    out = {}
    found = segment_phases(series, resamples=resamples, seed=seed)
    evidence = {"gain": found.gain, "misfit": found.misfit, "noise": found.noise}
    out["phase"] = xr.DataArray(np.array(found.names), dims="checkpoint", attrs=evidence)
    out["phase_probability"] = xr.DataArray(found.label_probability, dims="checkpoint")
    boundary = np.full(len(series), np.nan)
    boundary[found.boundary] = found.boundary_probability
    out["phase_boundary_probability"] = xr.DataArray(boundary, dims="checkpoint")
    return out


def _coordinates(sweep: Sweep) -> dict:
    steps = [np.nan if m.step is None else float(m.step) for m in sweep.checkpoints]
    tokens = [np.nan if m.tokens_seen is None else float(m.tokens_seen) for m in sweep.checkpoints]
    return {
        "checkpoint": sweep.labels,
        "step": ("checkpoint", steps),
        "tokens_seen": ("checkpoint", tokens),
        "layer": list(sweep.checkpoints[0].layers),
        "bound": ["low", "high"],
    }
