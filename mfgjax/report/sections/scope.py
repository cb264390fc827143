"""On which layers the game describes the router, and what its top-K choice costs the model."""

from functools import partial

import equinox as eqx
import jax
import numpy as np
import pandas as pd
import xarray as xr

from mfgjax.equilibrium.batch import solve_rows
from mfgjax.estimate.inference.weights import jackknife_groups, leave_out_weights
from mfgjax.numerics.status import Status
from mfgjax.report.inputs import Inputs
from mfgjax.report.section import Section, Table
from mfgjax.scope.card import IN_SCOPE, MARGINAL, OUT, scope_card
from mfgjax.scope.estimates import estimate_scope
from mfgjax.scope.truncation import measure_truncation
from mfgjax.trace.sweep import Sweep


def section(inputs: Inputs) -> Section:
    """Scope card and top-K choice at the last checkpoint."""
    card = _card(inputs)
    tables = (
        Table(
            "scope_card",
            f"Scope card per layer, checkpoint {inputs.sweep.labels[-1]}",
            card,
            "safety_margin: congestion over gamma_c of Theorem 5.2, above 1 where no expert can take everything. "
            "equilibrium_distance, uniform_distance: L1 from the observed load to the game's and to the "
            "uniform one. Intervals: those of the trajectory for congestion, excess and what is a multiple of "
            "congestion; jackknife over texts for the rest.",
            shown=(
                "layer",
                "verdict",
                "reason",
                "safety_margin",
                "equilibrium_distance",
                "uniform_distance",
            ),
        ),
        _truncation_table(inputs.sweep, inputs.dataset),
    )
    return Section("Scope", verdict=(_verdict(card),), tables=tables)


def _card(inputs: Inputs) -> pd.DataFrame:
    """Verdicts by the report's one kind of interval, at its level."""
    last, texts = inputs.dataset.isel(checkpoint=-1), inputs.last.token_count.shape[0]
    weights = np.concatenate([np.ones((1, texts)), leave_out_weights(jackknife_groups(texts))])
    layers = jax.tree.map(
        lambda own, without: np.concatenate([own[-1:], without[:, -1]]),
        inputs.trajectory.estimate,
        inputs.trajectory.left_out,
    )
    rows = np.asarray(weights, inputs.last.token_count.dtype)
    scope = jax.device_get(estimate_scope(inputs.last, rows, last.top_k, layers))
    congestion = last.congestion_interval.values
    point = jax.tree.map(lambda leaf: leaf[0], scope)
    return scope_card(
        eqx.tree_at(lambda own: own.dispersion_excess, point, last.dispersion_excess.values),
        jax.tree.map(lambda leaf: leaf[1:], scope),
        inputs.sweep.checkpoints[-1].layers,
        confidence=inputs.confidence,
        kind="jackknife",
        known={
            "congestion": congestion,
            "dispersion_excess": last.dispersion_excess_interval.values,
            # Multiples of the congestion, whose noise is most of theirs: the others are held fixed.
            "safety_margin": congestion / last.critical_congestion.values[:, None],
            "worst_case_rate": congestion / 2,
        },
    )


def _verdict(card: pd.DataFrame) -> str:
    """Layers in each class, and the commonest reason against."""
    count = {name: int((card.verdict == name).sum()) for name in (IN_SCOPE, MARGINAL, OUT)}
    if count[IN_SCOPE] == len(card):
        return f"In scope of the game on all {len(card)} layers."
    parts = [f"{name} on {number}" for name, number in count.items() if number]
    found = f"Of {len(card)} layers the game is {', '.join(parts)}"
    reasons = card.reason[card.verdict != IN_SCOPE].str.split("; ").explode().value_counts()
    return f"{found}. Most often (on {reasons.iloc[0]}): {reasons.index[0]}."


def _truncation_table(sweep: Sweep, dataset: xr.Dataset) -> Table:
    """Last checkpoint: the model with top-K choice against the model without, and the bounds."""
    last = jax.tree.map(lambda leaf: leaf[-1], sweep.statistics)
    quality = last.logit_sum.sum(0) / last.token_count.sum()
    games = quality, dataset.congestion.values[-1].astype(quality.dtype)
    measure = jax.jit(jax.vmap(partial(measure_truncation, top_k=dataset.top_k)))
    found = jax.device_get(measure(*games, solve_rows(*games).load))
    frame = pd.DataFrame({"layer": sweep.checkpoints[-1].layers})
    for name in ("distance", "dropped", "bound", "bound_from_mass", "period"):
        frame[name] = getattr(found, name)
    frame["outcome"] = [Status(int(value)).name.lower() for value in found.status]
    note = (
        "distance: L1 from the equilibrium to the truncated fixed point at the estimate. bound: "
        "Theorem 5.6, infinite where vacuous; bound_from_mass needs no contraction but a fixed point."
    )
    return Table("top_k_truncation", "What top-K choice does to the model", frame, note)
