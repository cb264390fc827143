"""How much of a held-out difference is luck: other texts to fit on, and other splits.

The intervals of `compare_static` resample the held-out texts and leave the fits alone. Here every
model is fitted anew: on resampled texts of all three parts, and on other splits of the same texts.
k-means starts from the centres of the comparison's own clustering texts.
"""

import dataclasses

import numpy as np

from mfgjax.comparison.distance import l1_distance
from mfgjax.comparison.models import cluster_centres, fit_models
from mfgjax.comparison.split import Split, three_way_split
from mfgjax.token_types.likelihood import dispatch_of
from mfgjax.trace import TokenTrace


@dataclasses.dataclass(frozen=True)
class Refits:
    """Held-out L1 of models fitted again and again; models that see the held-out logits are left out.

    Attributes:
        models: names, as in `StaticComparison`.
        resampled: split of the comparison, texts of its three parts resampled, each part on its own,
            `[refit, model, layer]`.
        splits: other splits, all texts once, `[split, model, layer]`.
    """

    models: tuple[str, ...]
    resampled: np.ndarray
    splits: np.ndarray


def refit_static(
    trace: TokenTrace,
    *,
    types: tuple[int, ...] = (2, 4, 8),
    refits: int = 30,
    splits: int = 10,
    seed: int = 0,
) -> Refits:
    """Fit and score every model `refits + splits` times.

    Args:
        trace: as for `compare_static`.
        types: numbers of token types.
        refits: times that the texts of the comparison's own split are resampled, at least 2.
        splits: other splits.
        seed: that of the comparison, whose split is resampled.

    Raises:
        ValueError: `refits` below 2, or fewer than three texts.
    """
    if refits < 2:
        raise ValueError(f"refits is {refits}; a spread needs at least 2 (say 30)")
    count = np.bincount(trace.text, minlength=trace.metadata.text_count)
    dispatch = dispatch_of(trace)
    rows = [np.flatnonzero(trace.text == text) for text in range(len(count))]
    rng = np.random.default_rng((seed, 1))
    own = three_way_split(count, seed)

    rows_of_own = np.concatenate([rows[text] for text in own.cluster])
    centres = cluster_centres(trace.logits[rows_of_own], types, seed)

    def scored(split: Split) -> dict[str, np.ndarray]:
        parts = (split.cluster, split.fit, split.held_out)
        cluster, fit, held = (np.concatenate([rows[text] for text in part]) for part in parts)
        parts = (trace.logits[cluster], trace.logits[fit], dispatch[fit])
        loads, _ = fit_models(*parts, types, centres=centres)
        total = dispatch[held].sum(0)
        observed = total / total.sum(-1, keepdims=True)
        return {model: l1_distance(observed, load) for model, load in loads.items()}

    def drawn(texts: np.ndarray) -> np.ndarray:
        return rng.choice(texts, len(texts))

    again = [
        scored(Split(drawn(own.fit), drawn(own.cluster), drawn(own.held_out)))
        for _ in range(refits)
    ]
    others = [scored(three_way_split(count, seed + 1 + i)) for i in range(splits)]
    return Refits(
        models=tuple(again[0]),
        resampled=np.stack([np.stack(list(found.values())) for found in again]),
        splits=np.array([np.stack(list(found.values())) for found in others]).reshape(
            splits, *np.shape(list(again[0].values()))
        ),
    )
