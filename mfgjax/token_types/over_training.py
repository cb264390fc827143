"""Token types over training: their qualities, weights and distances from checkpoint to checkpoint.

Left as future work by arXiv 2604.04230 (Section 8). At every checkpoint the types are fitted anew; the
same tokens pass through every checkpoint, so types are matched by the tokens that they share.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from mfgjax.token_types.fit import fit_types
from mfgjax.token_types.kmeans import centred
from mfgjax.token_types.likelihood import dispatch_of, token_likelihood
from mfgjax.trace import TokenTrace, TraceError


@dataclasses.dataclass(frozen=True)
class TypesOverTraining:
    """Types of each checkpoint and layer, numbered so that a number follows the same tokens.

    Type 0 is the largest at the last checkpoint. `moved`, `kept` and `agreement` compare with the checkpoint
    before and are NaN at the first. Row 0 of the axis `resample` is the estimate; the others resample
    texts with the fits held fixed.

    Attributes:
        checkpoints: steps where known, else revisions.
        layers: names of the layers.
        weight: fraction of tokens, `[resample, checkpoint, layer, type]`.
        quality: mean centred logit, `[checkpoint, layer, type, expert]`.
        quality_spread: max - min of it over experts, `[resample, checkpoint, layer, type]`.
        moved: root mean square change of it over experts, `[resample, checkpoint, layer, type]`.
        distance: root mean square distance between two types' qualities over experts, mean over pairs
            of types, `[resample, checkpoint, layer]`.
        separation: share of the logits' variance that lies between types, `[resample, checkpoint, layer]`.
        kept: share of a type's tokens that were in it before, `[checkpoint, layer, type]`.
        agreement: adjusted Rand index with the types before, `[checkpoint, layer]`.
        congestion: shared by the types, by likelihood, `[checkpoint, layer]`.
        congestion_of_one_type: the same with all tokens of one type.
    """

    checkpoints: tuple[str, ...]
    layers: tuple[str, ...]
    weight: np.ndarray
    quality: np.ndarray
    quality_spread: np.ndarray
    moved: np.ndarray
    distance: np.ndarray
    separation: np.ndarray
    kept: np.ndarray
    agreement: np.ndarray
    congestion: np.ndarray
    congestion_of_one_type: np.ndarray


def track_types(
    traces: Sequence[TokenTrace],
    types: int = 4,
    *,
    resamples: int = 200,
    seed: int = 0,
    most_types: int = 0,
) -> TypesOverTraining:
    """Fit the types of every checkpoint by likelihood and follow them.

    Args:
        traces: checkpoints of one model on the same texts, in training order.
        types: number of types, at least 2.
        resamples: of the texts, for intervals; 0 for none.
        seed: of k-means, where the fits start, and of the resamples.
        most_types: as `fit_types` takes it.

    Raises:
        TraceError: traces of different texts, layers or experts.
        ValueError: no traces, fewer than two types, or too few tokens for them.
    """
    if not traces or types < 2:
        raise ValueError(f"{len(traces)} traces and {types} types: at least 1 and 2 are needed")
    first = traces[0]
    for trace in traces[1:]:
        if trace.logits.shape != first.logits.shape or not np.array_equal(trace.text, first.text):
            raise TraceError(
                f"{trace.metadata.revision}: tokens or layers differ from those of "
                f"{first.metadata.revision}; types are followed on the same tokens only"
            )
    layers = first.logits.shape[1]
    labels = np.zeros((len(traces), layers, len(first.text)), np.int64)
    congestion, of_one_type = np.zeros((2, len(traces), layers))
    for at, trace in enumerate(traces):
        logits, dispatch = centred(trace.logits), dispatch_of(trace)
        for layer in range(layers):
            rows = logits[:, layer], dispatch[:, layer]
            fit = fit_types(*rows, types, most_types=most_types, seed=seed)
            found = token_likelihood(fit.fitted, fit.type_load[1], *rows, np)
            labels[at, layer] = found.type_probability.argmax(-1)
            congestion[at, layer] = fit.fitted.congestion
            single = fit_types(*rows, 1, most_types=max(types, most_types), seed=seed).fitted
            of_one_type[at, layer] = single.congestion
    _renumber(labels, types)

    texts = first.metadata.text_count
    weights = np.ones((1 + resamples, texts))
    even = np.full(texts, 1 / texts)
    weights[1:] = np.random.default_rng(seed).multinomial(texts, even, resamples)
    rows = [_measure(trace, own, types, weights) for trace, own in zip(traces, labels, strict=True)]
    weight, quality, separation = (np.stack(parts, axis=1) for parts in zip(*rows, strict=True))
    moved = np.full(weight.shape, np.nan)
    moved[:, 1:] = np.sqrt(((quality[:, 1:] - quality[:, :-1]) ** 2).mean(-1))
    kept, agreement = _compared(labels, types)
    return TypesOverTraining(
        checkpoints=_labels(traces),
        layers=first.metadata.layers,
        weight=weight,
        quality=quality[0],
        quality_spread=np.ptp(quality, axis=-1),
        moved=moved,
        distance=_pair_distance(quality),
        separation=separation,
        kept=kept,
        agreement=agreement,
        congestion=congestion,
        congestion_of_one_type=of_one_type,
    )


def match_labels(before: np.ndarray, after: np.ndarray, types: int) -> np.ndarray:
    """The `after` type that continues each `before` type: most tokens in common, one to one.

    Args:
        before: type of each token, `[token]`.
        after: type of the same tokens in the other clustering.
        types: number of types of both.
    """
    common = np.zeros((types, types))
    np.add.at(common, (before, after), 1)
    return linear_sum_assignment(common, maximize=True)[1]


def _labels(traces: Sequence[TokenTrace]) -> tuple[str, ...]:
    steps = [trace.metadata.step for trace in traces]
    if None in steps:
        return tuple(trace.metadata.revision for trace in traces)
    return tuple(str(step) for step in steps)


def _renumber(labels: np.ndarray, types: int) -> None:
    """In place: the last checkpoint by size, each one before by its tokens in the one after."""
    for layer in range(labels.shape[1]):
        by_size = np.argsort(-np.bincount(labels[-1, layer], minlength=types), kind="stable")
        labels[-1, layer] = np.argsort(by_size)[labels[-1, layer]]
        for at in range(len(labels) - 2, -1, -1):
            follows = match_labels(labels[at, layer], labels[at + 1, layer], types)
            labels[at, layer] = follows[labels[at, layer]]


def _measure(trace: TokenTrace, labels: np.ndarray, types: int, weights: np.ndarray):
    """Weight, quality and separation of one checkpoint under each weighting of the texts."""
    logits = centred(trace.logits)
    layers, experts = logits.shape[1:]
    texts = weights.shape[1]
    weight, separation = np.zeros((len(weights), layers, types)), np.zeros((len(weights), layers))
    quality = np.zeros((len(weights), layers, types, experts))
    for layer in range(layers):
        cell = trace.text * types + labels[layer]
        count = np.bincount(cell, minlength=texts * types).reshape(texts, types)
        total = np.zeros((texts * types, experts))
        np.add.at(total, cell, logits[:, layer])
        square = np.bincount(trace.text, (logits[:, layer] ** 2).sum(-1), minlength=texts)
        tokens = weights @ count
        own = np.tensordot(weights, total.reshape(texts, types, experts), axes=1)
        mean = own.sum(1) / tokens.sum(1)[:, None]
        quality[:, layer] = own / np.maximum(tokens, 1)[..., None]
        weight[:, layer] = tokens / tokens.sum(1, keepdims=True)
        about = quality[:, layer] - mean[:, None]
        between = (weight[:, layer] * (about**2).sum(-1)).sum(-1)
        whole = weights @ square / tokens.sum(1) - (mean**2).sum(-1)
        separation[:, layer] = between / whole
    return weight, quality, separation


def _pair_distance(quality: np.ndarray) -> np.ndarray:
    types = quality.shape[-2]
    pairs = [
        np.sqrt(((quality[..., a, :] - quality[..., b, :]) ** 2).mean(-1))
        for a in range(types)
        for b in range(a)
    ]
    return np.mean(pairs, axis=0)


def _compared(labels: np.ndarray, types: int) -> tuple[np.ndarray, np.ndarray]:
    kept = np.full((*labels.shape[:2], types), np.nan)
    agreement = np.full(labels.shape[:2], np.nan)
    for at, layer in np.ndindex(len(labels) - 1, labels.shape[1]):
        before, after = labels[at, layer], labels[at + 1, layer]
        agreement[at + 1, layer] = adjusted_rand_score(before, after)
        for own in range(types):
            inside = after == own
            kept[at + 1, layer, own] = (before[inside] == own).mean() if inside.any() else np.nan
    return kept, agreement
