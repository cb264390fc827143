"""How much the trajectory depends on the choices of the estimate (Figure 2 of arXiv 2604.04230)."""

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Trajectories of one sweep under several choices, against a reference choice.

    Attributes:
        reference: name of the choice that the others are compared with.
        names: of all choices, e.g. `"l1 mean"`.
        correlation: Pearson correlation of each trajectory with the reference; NaN if constant.
        shift: mean difference from the reference.
        matrix: correlations of all pairs.
    """

    reference: str
    names: tuple[str, ...]
    correlation: np.ndarray
    shift: np.ndarray
    matrix: np.ndarray


def compare_trajectories(trajectories: Mapping[str, np.ndarray], reference: str) -> Sensitivity:
    """Compare trajectories `[checkpoint]` (or `[checkpoint, layer]`, averaged over layers).

    Correlation hides shifts: the paper's r >= 0.89 holds between proxies that are all locations of
    the same logits. Read `shift` beside it.

    Raises:
        ValueError: if the reference is not among the trajectories, or lengths differ.
    """
    if reference not in trajectories:
        raise ValueError(f"reference {reference!r} is not one of {sorted(trajectories)}")
    names = tuple(trajectories)
    series = [np.asarray(trajectories[name], float) for name in names]
    series = [values.mean(-1) if values.ndim == 2 else values for values in series]
    if len({len(values) for values in series}) != 1:
        lengths = {n: len(v) for n, v in zip(names, series, strict=True)}
        raise ValueError(f"trajectories differ in length: {lengths}")
    stacked = np.stack(series)
    centred = stacked - stacked.mean(-1, keepdims=True)
    norm = np.sqrt((centred**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = centred @ centred.T / np.where(norm > 0, norm, np.nan)[:, None]
        matrix = matrix / np.where(norm > 0, norm, np.nan)[None]
    at = names.index(reference)
    return Sensitivity(reference, names, matrix[at], (stacked - stacked[at]).mean(-1), matrix)
