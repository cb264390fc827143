"""What the auxiliary loss asks for, what training adds, what dispersion explains (Table 5)."""

import numpy as np
import pandas as pd
import xarray as xr

from mfgjax.dynamics.intervals import congestion_of_layers, layer_mean
from mfgjax.estimate.congestion.decomposition import decompose_congestion
from mfgjax.estimate.congestion.diagnostics import IN_SCOPE_CONGESTION
from mfgjax.report.figures import decomposition_figure
from mfgjax.report.inputs import Inputs
from mfgjax.report.reference import published
from mfgjax.report.section import Picture, Section, Table
from mfgjax.report.verdict import estimate, number, texts_to_tell

_STRONG = 30.0
"""Congestion from which a layer is in the strong group; the paper does not say where it cut."""


def section(inputs: Inputs) -> Section:
    """The last checkpoint: layers in groups, and one by one."""
    dataset = inputs.dataset
    return Section(
        "Decomposition",
        verdict=(_verdict(dataset),),
        tables=(
            decomposition_groups(dataset, inputs.strong),
            decomposition_table(dataset),
            published("table5_decomposition", "Table 5, OLMoE-1B-7B"),
        ),
        figures=(
            Picture(
                "decomposition",
                "Congestion of the last checkpoint by layer, with its null",
                lambda: decomposition_figure(dataset),
            ),
        ),
    )


def _verdict(dataset: xr.Dataset) -> str:
    """Signed congestion against what the spread of the logits makes by itself."""
    last = dataset.isel(checkpoint=-1)
    ends = last.mean_dispersion_excess_interval.values
    found = f"Signed congestion, which may be negative, is {number(last.mean_corrected)}"
    if last.mean_corrected <= 0:
        return f"{found}: there is no congestion to explain."
    found += (
        f"; the spread of the logits alone makes {number(last.mean_dispersion_null)} (closed form), which leaves "
        f"{estimate(last.mean_dispersion_excess, ends)}"
    )
    if ends[0] > 0:
        return f"{found}: this null does not explain it."
    if ends[1] < 0:
        return f"{found}: this null explains all of it and more."
    effect = abs(float(last.mean_dispersion_excess))
    return f"{found}: this null may explain it. {texts_to_tell(int(dataset.texts), ends, effect)}"


def decomposition_groups(dataset: xr.Dataset, strong: float = _STRONG) -> Table:
    """Groups of layers of the last checkpoint, and all layers together.

    Args:
        dataset: as `mfgjax.track` returns it.
        strong: congestion from which a layer is in the strong group.
    """
    last = dataset.isel(checkpoint=-1)
    alpha = float(dataset.aux_loss_coef)
    values = last.congestion.values
    parts = decompose_congestion(values, alpha, dataset.experts, strong=strong)
    groups = {group.name: list(group.layers) for group in parts.groups}
    groups["all layers"] = list(range(values.size))
    rows = []
    for name, layers in groups.items():
        if not layers:
            continue
        value, ends = congestion_of_layers(last, layers)
        row = {"group": name, "layers": ", ".join(map(str, layers)), "layer_count": len(layers)}
        row["congestion"] = value
        if dataset.resamples:
            row["congestion_low"], row["congestion_high"] = ends
        # Nothing to split where there is no congestion.
        row["explicit"] = parts.explicit
        row["implicit"] = value - parts.explicit if value > IN_SCOPE_CONGESTION else np.nan
        row["implicit_over_explicit"] = row["implicit"] / parts.explicit if alpha else np.nan
        for part in ("signed", "dispersion_null", "dispersion_excess"):
            row[part] = layer_mean(last[part].values[layers])
        rows.append(row)
    note = (
        f"Congestion above 0.05 is in scope, from {strong:g} on strong. Groups are of the estimate; intervals keep "
        "them fixed. dispersion_excess: what is left of the signed congestion, corrected for few texts, when token-level "
        "logit dispersion, which needs no balancing, is taken off. implicit counts it all."
    )
    title = f"Decomposition by groups of layers, checkpoint {last.checkpoint.item()}"
    shown = (
        "group",
        "layers",
        "congestion",
        "signed",
        "dispersion_null",
        "dispersion_excess",
        "explicit",
        "implicit",
    )
    return Table(
        "decomposition_groups",
        title,
        pd.DataFrame(rows),
        note,
        shown,
        ("dispersion_null", "layers"),
    )


def decomposition_table(dataset: xr.Dataset) -> Table:
    """Effective congestion of the last checkpoint, split as in Definition 3.3, with its null."""
    last = dataset.isel(checkpoint=-1)
    alpha = float(dataset.aux_loss_coef)
    parts = decompose_congestion(last.congestion.values, alpha, dataset.experts)
    frame = pd.DataFrame({"layer": last.layer.values})
    for name in ("congestion", "signed", "dispersion_null", "dispersion_excess"):
        frame[name] = last[name].values
        bounds = last[f"{name}_interval"]
        frame[f"{name}_low"], frame[f"{name}_high"] = bounds.values.T
    frame["explicit"] = parts.explicit
    frame["implicit"] = parts.implicit
    frame["implicit_over_explicit"] = parts.ratio
    frame["signed_implicit"] = frame.signed - parts.explicit
    frame["status"] = np.where(parts.in_scope, "in scope", "congestion at 0")
    note = (
        "explicit = alpha M; implicit = congestion - explicit (Definition 3.3), in scope only. dispersion_excess "
        "is what logit dispersion does not account for of the signed congestion, corrected for few texts."
    )
    if np.isnan(alpha):
        note += " The traces name no auxiliary loss coefficient: explicit and implicit are unknown."
    return Table(
        "decomposition",
        f"Decomposition of congestion, checkpoint {last.checkpoint.item()}",
        frame,
        note,
        (
            "layer",
            "congestion",
            "signed",
            "dispersion_null",
            "dispersion_excess",
            "explicit",
            "implicit",
            "status",
        ),
        ("status", "dispersion_null", "signed", "explicit"),
    )
