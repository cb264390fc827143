"""The static comparison as tables: per layer, in groups, and as paired differences."""

import numpy as np
import pandas as pd

from mfgjax.comparison.compare import StaticComparison
from mfgjax.metrics import layer_groups

NOT_COMPETING = ("seen load", "mixture softmax", "sinkhorn")
"""Not counted among the winners: no model, or one that sees the held-out logits."""


def layer_errors(comparison: StaticComparison, distance: str = "l1") -> pd.DataFrame:
    """One row per layer, one column per model (Table 4)."""
    frame = pd.DataFrame(comparison.distance[distance].T, columns=list(comparison.models))
    frame.insert(0, "layer", list(comparison.layers))
    return frame


def group_errors(comparison: StaticComparison, confidence: float = 0.95) -> pd.DataFrame:
    """One row per model: each distance over all, early and late layers (Table 3).

    The L1 of all layers has its percentile interval: resampling adds noise to the load and noise to
    a distance, so a small error can lie below its own interval (differences suffer less). `wins` counts layers with the lowest L1
    among the models that do not see the held-out logits, the seen load apart.
    """
    blind = np.array([model not in NOT_COMPETING for model in comparison.models])
    l1 = np.where(blind[:, None], comparison.distance["l1"], np.inf)
    wins = np.bincount(l1.argmin(0), minlength=len(blind))
    rows = []
    for index, model in enumerate(comparison.models):
        row: dict[str, object] = {"model": model}
        for name, group in layer_groups(len(comparison.layers)).items():
            for kind, values in comparison.distance.items():
                row[f"{kind}_{name}"] = float(values[index, group].mean())
        drawn = comparison.resampled[:, index].mean(-1)
        row["l1_all_low"], row["l1_all_high"] = _interval(drawn, confidence)
        row["wins"] = int(wins[index]) if blind[index] else None
        rows.append(row)
    return pd.DataFrame(rows)


def paired_differences(
    comparison: StaticComparison, pairs: list[tuple[str, str]], confidence: float = 0.95
) -> pd.DataFrame:
    """Held-out L1 of one model less that of another, with intervals over the same resamples.

    Args:
        comparison: as `compare_static` returns it.
        pairs: names `(model, reference)`; negative differences favour the model.
        confidence: level of the percentile intervals.

    Raises:
        ValueError: on a name that is not among the models.
    """
    index = {name: i for i, name in enumerate(comparison.models)}
    unknown = sorted({name for pair in pairs for name in pair} - set(index))
    if unknown:
        raise ValueError(f"no model {unknown[0]!r}; there are {', '.join(index)}")
    rows = []
    for model, reference in pairs:
        a, b = index[model], index[reference]
        for name, group in layer_groups(len(comparison.layers)).items():
            l1 = comparison.distance["l1"]
            change = l1[a, group] - l1[b, group]
            drawn = (comparison.resampled[:, a] - comparison.resampled[:, b])[:, group].mean(-1)
            low, high = _interval(drawn, confidence)
            rows.append(
                {
                    "model": model,
                    "reference": reference,
                    "layers": name,
                    "difference": change.mean(),
                    "low": low,
                    "high": high,
                    "layers_won": int((change < 0).sum()),
                    "layers_compared": len(group),
                    "relative_percent": 100 * change.mean() / l1[b, group].mean(),
                }
            )
    return pd.DataFrame(rows)


def standard_pairs(comparison: StaticComparison) -> list[tuple[str, str]]:
    """The differences that the paper argues about."""
    pairs = [("MFG", "temperature softmax"), ("MFG", "uniform")]
    for model in comparison.models:
        if model.startswith("multi-type"):
            types = model.split()[-1]
            pairs += [
                (model, "MFG"),
                (model, f"cluster softmax {types}"),
                (model, f"cluster MFG {types}"),
            ]
    return pairs


def _interval(drawn: np.ndarray, confidence: float) -> tuple[float, float]:
    if not len(drawn):
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
