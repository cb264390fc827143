"""Token types: k-means on gate logits, then quality, weight and load of each type."""

import dataclasses
from functools import cache
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import ThreadpoolController

STARTS = 10
"""Runs of k-means from different starts: four miss one of three plain clusters now and then."""


@dataclasses.dataclass(frozen=True)
class TokenTypes:
    """Types of one layer, measured on the fitting texts.

    Attributes:
        weight: fraction of tokens of each type, `[type]`.
        quality: mean centred logit of each type, `[type, expert]`.
        load: dispatch fractions of each type, `[type, expert]`; uniform for a type without tokens.
        centre: of each type where k-means found it, `[type, expert]`; where refits start.
    """

    weight: np.ndarray
    quality: np.ndarray
    load: np.ndarray
    centre: np.ndarray


def centred(logits: np.ndarray) -> np.ndarray:
    """Logits less each token's mean over experts, which no choice depends on."""
    logits = np.asarray(logits, np.float64)
    return logits - logits.mean(-1, keepdims=True)


@cache
def _controller() -> ThreadpoolController:
    """Of the libraries that are loaded by now; looking for them takes longer than a small k-means."""
    return ThreadpoolController()


def one_thread():
    """A context, or decorator, for small data: threads take thirty times longer to wait for each
    other than the work takes."""
    return _controller().limit(limits=1)


def k_means(
    points: np.ndarray,
    types: int,
    seed: int = 0,
    starts: int = STARTS,
    centres: np.ndarray | None = None,
) -> KMeans:
    """k-means of scikit-learn, fitted, on one thread.

    Args:
        points: `[token, expert]`, centred logits.
        types: number of clusters.
        seed: of the starts.
        starts: runs from different starts, of which the tightest is kept.
        centres: a start besides, `[type, expert]`, as of the whole sample where `points` are a part
            or a resample of it: `starts` can then be few, or 0.
    """
    fit: Any = KMeans  # its stub knows neither counts nor centres
    with one_thread():
        found = []
        if starts:
            starts = starts if types > 1 else 1  # every start of one cluster ends at the mean
            found.append(fit(types, n_init=starts, random_state=seed).fit(points))
        if centres is not None:
            found.append(fit(types, init=centres, n_init=1).fit(points))
        return min(found, key=lambda means: means.inertia_)


def nearest_type(means: KMeans, points: np.ndarray) -> np.ndarray:
    """Type of each point, also on one thread."""
    with one_thread():
        return np.asarray(means.predict(points))


def find_types(
    cluster_logits: np.ndarray,
    fit_logits: np.ndarray,
    fit_dispatch: np.ndarray,
    types: int,
    seed: int = 0,
    starts: int = STARTS,
    centres: np.ndarray | None = None,
) -> TokenTypes:
    """Cluster the tokens of one set of texts, measure the clusters on another.

    Args:
        cluster_logits: `[token, expert]`, texts of set B: k-means sees only these.
        fit_logits: `[token, expert]`, texts of set A, each put to the nearest centre.
        fit_dispatch: `[token, expert]`, 1 where a token of A chose the expert.
        types: number of types.
        seed: of k-means.
        starts: runs of k-means.
        centres: a start besides, as `k_means` takes it.
    """
    means = k_means(centred(cluster_logits), types, seed, starts, centres)
    logits = centred(fit_logits)
    member = np.eye(types)[nearest_type(means, logits)]
    size = member.sum(0)
    safe = np.maximum(size, 1)[:, None]
    count = member.T @ fit_dispatch
    total = count.sum(-1, keepdims=True)
    empty = size[:, None] == 0
    return TokenTypes(
        weight=size / size.sum(),
        quality=np.where(empty, means.cluster_centers_, member.T @ logits / safe),
        load=np.where(empty, 1 / logits.shape[-1], count / np.maximum(total, 1)),
        centre=means.cluster_centers_,
    )
