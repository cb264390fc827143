"""The static comparison: which model predicts the load of texts that it has not seen."""

import dataclasses

import numpy as np
from scipy.special import softmax

from mfgjax.comparison.distance import DISTANCES
from mfgjax.comparison.models import fit_models, sinkhorn_choices
from mfgjax.comparison.split import Split, three_way_split
from mfgjax.token_types.likelihood import dispatch_of
from mfgjax.trace import TokenTrace


@dataclasses.dataclass(frozen=True)
class StaticComparison:
    """Held-out errors of every model.

    Attributes:
        layers: names of the layers.
        models: names of the models; `multi-type K`, `cluster softmax K` and `cluster MFG K` once
            per number of types K. `seen load` is that of the fitting texts, without a model;
            `mixture softmax` and `sinkhorn` see the held-out logits.
        split: texts of each part.
        tokens: tokens of each part.
        distance: held-out error by name (`l1`, `kl`, `js`), each `[model, layer]`.
        resampled: held-out L1 under resampled held-out texts, `[resample, model, layer]`. Paired:
            every model sees the same texts. Fits stay as they are, so the intervals are those of
            the evaluation, not of the fit.
        predicted: loads, `[model, layer, expert]`.
        observed: held-out load, `[layer, expert]`.
        congestion: fitted congestion of the models that have one shared by all tokens, `[layer]`.
    """

    layers: tuple[str, ...]
    models: tuple[str, ...]
    split: Split
    tokens: tuple[int, int, int]
    distance: dict[str, np.ndarray]
    resampled: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    congestion: dict[str, np.ndarray]


def compare_static(
    trace: TokenTrace,
    *,
    types: tuple[int, ...] = (2, 4, 8),
    resamples: int = 1000,
    seed: int = 0,
) -> StaticComparison:
    """Fit every model on a third of the texts and measure it on another.

    Args:
        trace: one checkpoint, every token.
        types: numbers of token types.
        resamples: of the held-out texts; 0 for none.
        seed: of the split, of k-means and of the resamples.

    Raises:
        ValueError: fewer than three texts, or fewer tokens than types.
    """
    split = three_way_split(np.bincount(trace.text, minlength=trace.metadata.text_count), seed)
    inside = [np.isin(trace.text, part) for part in (split.fit, split.cluster, split.held_out)]
    tokens = (int(inside[0].sum()), int(inside[1].sum()), int(inside[2].sum()))
    if min(tokens) < max(types, default=1):
        raise ValueError(f"parts of {tokens} tokens cannot hold {max(types)} types; use more texts")
    dispatch = dispatch_of(trace)
    fit, cluster, held = ((trace.logits[rows], dispatch[rows]) for rows in inside)

    loads, congestion = fit_models(cluster[0], *fit, types, seed)
    counts = {"mixture softmax": softmax(np.asarray(held[0], np.float64), axis=-1)}
    routed = [
        sinkhorn_choices(held[0][:, i], trace.metadata.top_k) for i in range(trace.logits.shape[1])
    ]
    counts["sinkhorn"] = np.stack(routed, 1)
    models = (*loads, *counts)

    weights = np.ones((1, len(split.held_out)))
    if resamples:
        rng = np.random.default_rng(seed)
        even = np.full(weights.shape[1], 1 / weights.shape[1])
        weights = np.concatenate([weights, rng.multinomial(weights.shape[1], even, resamples)])
    text = np.searchsorted(split.held_out, trace.text[inside[2]])
    observed = resampled_load(held[1], text, weights)
    predicted = [np.broadcast_to(own[None], observed.shape) for own in loads.values()]
    predicted += [resampled_load(own, text, weights) for own in counts.values()]
    distance = {
        name: np.stack([measure(observed[0], own[0]) for own in predicted])
        for name, measure in DISTANCES.items()
    }
    errors = np.stack([DISTANCES["l1"](observed, own) for own in predicted], axis=1)
    return StaticComparison(
        layers=trace.metadata.layers,
        models=models,
        split=split,
        tokens=tokens,
        distance=distance,
        resampled=errors[1:],
        predicted=np.stack([own[0] for own in predicted]),
        observed=observed[0],
        congestion=congestion,
    )


def resampled_load(per_token: np.ndarray, text: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Load `[row, layer, expert]` under each weighting of the held-out texts."""
    sums = np.zeros((weights.shape[1], *per_token.shape[1:]))
    np.add.at(sums, text, per_token)
    total = np.tensordot(weights, sums, axes=1)
    return total / total.sum(-1, keepdims=True)
