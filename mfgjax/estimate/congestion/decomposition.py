"""Effective congestion split into what the auxiliary loss asks for and the rest (Definition 3.3)."""

import dataclasses

import numpy as np

from mfgjax.estimate.congestion.diagnostics import IN_SCOPE_CONGESTION, explicit_congestion


@dataclasses.dataclass(frozen=True)
class LayerGroup:
    """Layers that Table 5 of arXiv 2604.04230 would put in one row.

    Attributes:
        name: `"moderate"`, `"strong"` or `"out of scope"`.
        layers: their indices.
        congestion: mean over the group; NaN for an empty group.
        implicit: `congestion - explicit`; NaN out of scope, where there is nothing to split.
        ratio: `implicit / explicit`; NaN without an auxiliary loss.
    """

    name: str
    layers: tuple[int, ...]
    congestion: float
    implicit: float
    ratio: float


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """Per layer and grouped. `explicit` is `aux_loss_coef * experts`, one number for all layers."""

    explicit: float
    implicit: np.ndarray
    ratio: np.ndarray
    in_scope: np.ndarray
    groups: tuple[LayerGroup, ...]


def decompose_congestion(
    congestion: np.ndarray, aux_loss_coef: float, experts: int, *, strong: float = 30.0
) -> Decomposition:
    """Split the L1 congestion of each layer.

    The split is bookkeeping, not a cause: congestion that logit dispersion alone produces
    (`null_congestion`) is all counted as implicit.

    Args:
        congestion: one per layer.
        aux_loss_coef: alpha of the training run, per layer.
        experts: M.
        strong: congestion from which a layer is put in the strong group. The paper's groups average
            11.8 and 54.4, and it does not say where it cut.
    """
    congestion = np.asarray(congestion, float)
    explicit = explicit_congestion(aux_loss_coef, experts)
    in_scope = congestion > IN_SCOPE_CONGESTION
    implicit = np.where(in_scope, congestion - explicit, np.nan)
    ratio = implicit / explicit if explicit > 0 else np.full_like(implicit, np.nan)
    members = {
        "moderate": in_scope & (congestion < strong),
        "strong": in_scope & (congestion >= strong),
        "out of scope": ~in_scope,
    }
    groups = []
    for name, chosen in members.items():
        mean = float(congestion[chosen].mean()) if chosen.any() else float("nan")
        rest = float("nan") if name == "out of scope" else mean - explicit
        share = rest / explicit if explicit > 0 else float("nan")
        layers = tuple(np.flatnonzero(chosen).tolist())
        groups.append(LayerGroup(name, layers, mean, rest, share))
    return Decomposition(explicit, implicit, ratio, in_scope, tuple(groups))
