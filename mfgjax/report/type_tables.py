"""Token types as tables: how many there are, found which way, and what becomes of them in training."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from mfgjax.metrics.per_layer import layer_groups
from mfgjax.report.columns import interval_columns
from mfgjax.token_types.held_out import KMEANS, LIKELIHOOD, METHODS, HeldOutTypes
from mfgjax.token_types.how_many import (
    choose_types,
    clustering_stability,
    gap_statistic,
    mean_and_error,
)
from mfgjax.token_types.kmeans import centred
from mfgjax.token_types.over_training import TypesOverTraining
from mfgjax.trace import TokenTrace

_MOST_TOKENS = 2000
"""Tokens that the gap statistic and the stability use: every n-th of a longer trace."""


def type_count_table(
    trace: TokenTrace,
    held: HeldOutTypes,
    *,
    references: int = 10,
    pairs: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Evidence for each number of types, one row per layer and number.

    Columns: held-out log-likelihood per token (nats) of the likelihood fit, its gain over the number
    of types before it with that gain's standard error over texts; the gap statistic with its error;
    mean and standard deviation of the adjusted Rand index between clusterings of resampled texts;
    what the likelihood and the gap choose for the layer (`choose_types`, `Gap.chosen`).

    Args:
        trace: the checkpoint of `held`.
        held: as `cross_validate_types` returns it, types ascending.
        references: of the gap statistic.
        pairs: of resamples for the stability.
        seed: of both.
    """
    step = -(-len(trace.text) // _MOST_TOKENS)
    rows = []
    chosen = choose_types(held)
    for layer, name in enumerate(held.layers):
        points = centred(trace.logits[::step, layer])
        gap = gap_statistic(points, max(2, *held.types), references=references, seed=seed)
        for at, types in enumerate(held.types):
            per_text = held.joint[LIKELIHOOD, at, layer]
            gain = error = np.nan
            if at:
                change = per_text - held.joint[LIKELIHOOD, at - 1, layer]
                gain, error = mean_and_error(change, held.tokens)
            agreement = np.full(2, np.nan)
            if types > 1:
                found = clustering_stability(
                    points, trace.text[::step], types, pairs=pairs, seed=seed
                )
                agreement = found.mean(), found.std()
            rows.append(
                {
                    "layer": name,
                    "types": types,
                    "log_likelihood": per_text.sum() / held.tokens.sum(),
                    "gain": gain,
                    "gain_error": error,
                    "gap": gap.gap[types - 1],
                    "gap_error": gap.error[types - 1],
                    "likelihood_chooses": chosen[layer],
                    "gap_chooses": gap.chosen(),
                    "stability": agreement[0],
                    "stability_spread": agreement[1],
                }
            )
    return pd.DataFrame(rows)


def type_fit_table(
    held: HeldOutTypes, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Likelihood fit less k-means on held-out texts, one row per number of types and group of layers.

    `joint` (nats per token) and `choice` (nats per dispatch, given the logits) favour the likelihood
    fit where positive, `l1` (of the load, mean over folds) where negative. Percentile intervals over
    resampled texts, paired: both are scored on the same ones. Every text was held out once, so what
    the intervals leave out is the fitting texts' own sampling.
    """
    rng = np.random.default_rng(seed)
    texts = len(held.tokens)
    weights = np.ones((1 + resamples, texts))
    weights[1:] = rng.multinomial(texts, np.full(texts, 1 / texts), resamples)
    top_k = held.dispatch[:, 0].sum() / held.tokens.sum()
    scores: dict[str, Callable[[int, np.ndarray], np.ndarray]] = {
        "joint": lambda at, layers: _gain(held.joint[:, at][:, layers], held.tokens, weights),
        "choice": lambda at, layers: (
            _gain(held.choice[:, at][:, layers], held.tokens, weights) / top_k
        ),
        "l1": lambda at, layers: _l1_change(held, at, layers, weights),
    }
    rows = []
    for at, types in enumerate(held.types):
        for group, layers in layer_groups(len(held.layers)).items():
            row: dict[str, object] = {"types": types, "layers": group}
            for name, score in scores.items():
                row |= interval_columns(name, score(at, layers), confidence)
            own = held.choice[:, at][:, layers].sum(-1)
            row["layers_won_choice"] = int((own[LIKELIHOOD] > own[KMEANS]).sum())
            row["layers_compared"] = len(layers)
            rows.append(row)
    return pd.DataFrame(rows)


def type_load_table(held: HeldOutTypes) -> pd.DataFrame:
    """Held-out L1 of the load by both ways, beside two predictions without any game.

    `uniform`, and the load of the fitting texts as it was seen: what any model of the load has to beat.
    Means over folds and layers.
    """
    observed = _observed(held, np.ones((1, len(held.tokens))))[0]
    simple = {
        "uniform": np.abs(observed - 1 / observed.shape[-1]).sum(-1).mean(),
        "seen load": np.abs(observed - held.seen_load).sum(-1).mean(),
    }
    rows = []
    for at, types in enumerate(held.types):
        l1 = np.abs(held.load[:, :, at] - observed[:, None]).sum(-1).mean((0, 2))
        median = np.median(held.congestion[:, :, at], axis=(0, 2))
        row = {"types": types} | dict(zip(METHODS, l1.tolist(), strict=True)) | simple
        names = [f"congestion {method}" for method in METHODS]
        rows.append(row | dict(zip(names, median.tolist(), strict=True)))
    return pd.DataFrame(rows)


def types_over_training_table(found: TypesOverTraining, confidence: float = 0.95) -> pd.DataFrame:
    """One row per checkpoint, layer and type, with percentile intervals where texts were resampled."""
    checkpoints, layers, types = found.weight.shape[1:]
    rows = []
    for at, layer, own in np.ndindex(checkpoints, layers, types):
        row: dict[str, object] = {
            "checkpoint": found.checkpoints[at],
            "layer": found.layers[layer],
            "type": own,
        }
        for name in ("weight", "quality_spread", "moved"):
            row |= interval_columns(name, getattr(found, name)[:, at, layer, own], confidence)
        row["kept"] = found.kept[at, layer, own]
        rows.append(row)
    return pd.DataFrame(rows)


def type_separation_table(found: TypesOverTraining, confidence: float = 0.95) -> pd.DataFrame:
    """One row per checkpoint and layer: how far apart the types are, and their congestion."""
    rows = []
    for at, layer in np.ndindex(found.agreement.shape):
        row: dict[str, object] = {
            "checkpoint": found.checkpoints[at],
            "layer": found.layers[layer],
        }
        for name in ("distance", "separation"):
            row |= interval_columns(name, getattr(found, name)[:, at, layer], confidence)
        row["agreement"] = found.agreement[at, layer]
        row["congestion"] = found.congestion[at, layer]
        row["congestion_of_one_type"] = found.congestion_of_one_type[at, layer]
        rows.append(row)
    return pd.DataFrame(rows)


def _gain(score: np.ndarray, tokens: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Score of the likelihood fit less that of k-means, per token and layer, under each weighting."""
    change = (score[LIKELIHOOD] - score[KMEANS]).mean(0)
    return weights @ change / (weights @ tokens)


def _l1_change(held: HeldOutTypes, at: int, layers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    observed = _observed(held, weights)[:, :, layers]
    own = [
        np.abs(observed - held.load[:, method, at][:, layers]).sum(-1).mean((1, 2))
        for method in (KMEANS, LIKELIHOOD)
    ]
    return own[1] - own[0]


def _observed(held: HeldOutTypes, weights: np.ndarray) -> np.ndarray:
    """Load of each fold's own texts, `[weighting, fold, layer, expert]`."""
    parts = []
    for fold in range(len(held.load)):
        inside = held.fold == fold
        total = np.tensordot(weights[:, inside], held.dispatch[inside], axes=1)
        parts.append(total / np.maximum(total.sum(-1, keepdims=True), 1))
    return np.stack(parts, axis=1)
