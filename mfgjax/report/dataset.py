"""Labels for a trajectory: an xarray Dataset with dims checkpoint, layer, resample and bound.

The numbers are computed without labels; names, steps and units are put on here, at the boundary.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import mfgjax
from mfgjax.dynamics import Trajectory, layer_patterns, segment_phases
from mfgjax.estimate import Quality, critical_congestion, safety_margin
from mfgjax.trace import Sweep

_UNITS = {
    "congestion": "effective congestion, Definition 3.1 of arXiv 2604.04230 (L1, >= 0)",
    "residual": "L1 best-response residual at the estimate",
    "minima": "local minima of the L1 residual",
    "at_boundary": "the estimate is the boundary congestion = 0",
    "status": "fit status, 0 = certified",
    "signed": "signed maximum-likelihood congestion",
    "null": "congestion that logit dispersion alone produces",
    "quality_spread": "B0, max - min of quality",
    "entropy": "entropy of the load / log M",
    "dispersion": "token-level standard deviation of the router logits",
    "max_load": "largest dispatch fraction",
    "dead_experts": "experts that no token chose",
    "excess": "signed congestion minus the dispersion null",
    "critical_congestion": "gamma_c = M B0 / (M - 1)",
    "safety_margin": "congestion / gamma_c",
}
_INTERVALS = ("congestion", "signed", "null", "excess", "quality_spread", "entropy", "dispersion")
_AVERAGED = (*_INTERVALS, "residual", "critical_congestion", "safety_margin", "max_load")


def trajectory_dataset(
    trajectory: Trajectory,
    sweep: Sweep,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    quality: Quality = "mean",
) -> xr.Dataset:
    """Label `trajectory`, add percentile intervals, layer averages and phases.

    Args:
        trajectory: estimates of `sweep`.
        sweep: what they are of.
        confidence: level of the percentile intervals, in (0, 1).
        seed: of the phase probabilities.
        quality: that the estimates were made with.

    Returns:
        Per variable `v`: `v` (checkpoint, layer); for those with intervals `v_interval`
        (checkpoint, layer, bound); `mean_v` (checkpoint) and `mean_v_interval`; the resampled
        `congestion_resamples` and `signed_resamples` (resample, checkpoint, layer); `phase` and
        its probability (checkpoint); the paper's per-layer tests (layer).
    """
    metadata = sweep.checkpoints[0]
    estimate = _derived(trajectory.estimate, metadata.experts)
    resampled = _derived(trajectory.resampled, metadata.experts)
    grid = ("checkpoint", "layer")
    data = {name: xr.DataArray(values, dims=grid) for name, values in estimate.items()}
    for name in _AVERAGED:
        data[f"mean_{name}"] = xr.DataArray(_mean(estimate[name]), dims="checkpoint")
    if len(resampled["congestion"]):
        for name in _INTERVALS:
            data[f"{name}_interval"] = xr.DataArray(
                _interval(resampled[name], confidence), dims=(*grid, "bound")
            )
            data[f"mean_{name}_interval"] = xr.DataArray(
                _interval(_mean(resampled[name]), confidence), dims=("checkpoint", "bound")
            )
        for name in ("congestion", "signed"):
            data[f"{name}_resamples"] = xr.DataArray(resampled[name], dims=("resample", *grid))
    data |= _phases(estimate["congestion"], resampled["congestion"], seed)
    dataset = xr.Dataset(data, coords=_coordinates(sweep))
    for name, text in _UNITS.items():
        for label in (name, f"mean_{name}"):
            if label in dataset:
                dataset[label].attrs["long_name"] = text
    dataset.attrs = {
        "model": metadata.model,
        "experts": metadata.experts,
        "top_k": metadata.top_k,
        "aux_loss_coef": np.nan if metadata.aux_loss_coef is None else metadata.aux_loss_coef,
        "texts": metadata.text_count,
        "quality": quality,
        "confidence": confidence,
        "seed": seed,
        "resamples": len(resampled["congestion"]),
        "device": jax.devices()[0].device_kind,
        "versions": f"mfgjax {mfgjax.__version__}, jax {jax.__version__}",
    }
    return dataset


def _derived(estimates, experts: int) -> dict[str, np.ndarray]:
    """The estimates by name, with those that follow from them."""
    values = {name: np.asarray(getattr(estimates, name)) for name in _fields(estimates)}
    values["excess"] = values["signed"] - values["null"]
    spread, congestion = jnp.asarray(values["quality_spread"]), jnp.asarray(values["congestion"])
    values["critical_congestion"] = np.asarray(critical_congestion(spread, experts))
    values["safety_margin"] = np.asarray(safety_margin(congestion, spread, experts))
    return values


def _fields(estimates) -> list[str]:
    return list(type(estimates).__dataclass_fields__)


def _mean(values: np.ndarray) -> np.ndarray:
    """Average over layers (last axis) that have a value; NaN where none has."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.nanmean(values, axis=-1)


def _interval(resampled: np.ndarray, confidence: float) -> np.ndarray:
    """Percentile interval over the leading axis, bounds last.

    Not `mfgjax.estimate.percentile_interval`: a resample that leaves a layer without an estimate is
    left out here, where a single NaN would blank the layer's interval there.
    """
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.moveaxis(np.nanquantile(resampled, ends, axis=0), 0, -1)


def _phases(congestion, resampled, seed: int) -> dict[str, xr.DataArray]:
    pattern = layer_patterns(congestion)
    out = {
        "layer_surge": xr.DataArray(pattern.surge, dims="layer"),
        "layer_relaxation": xr.DataArray(pattern.relaxation, dims="layer"),
        "layer_starts_at_zero": xr.DataArray(pattern.from_zero, dims="layer"),
    }
    mean = _mean(congestion)
    if len(mean) < 3 or not np.isfinite(mean).all():
        return out
    resamples = _mean(resampled) if len(resampled) else None
    found = segment_phases(mean, resamples=resamples, seed=seed)
    evidence = {"gain": found.gain, "misfit": found.misfit, "noise": found.noise}
    out["phase"] = xr.DataArray(np.array(found.names), dims="checkpoint", attrs=evidence)
    out["phase_probability"] = xr.DataArray(found.label_probability, dims="checkpoint")
    boundary = np.full(len(mean), np.nan)
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
