"""Token types: k-means on gate logits, then quality, weight and load of each type."""

import dataclasses
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

STARTS = 10
"""Runs of k-means from different starts: four miss one of three plain clusters now and then."""


@dataclasses.dataclass(frozen=True)
class TokenTypes:
    """Types of one layer, measured on the fitting texts.

    Attributes:
        weight: fraction of tokens of each type, `[type]`.
        quality: mean centred logit of each type, `[type, expert]`.
        load: dispatch fractions of each type, `[type, expert]`; uniform for a type without tokens.
    """

    weight: np.ndarray
    quality: np.ndarray
    load: np.ndarray


def centred(logits: np.ndarray) -> np.ndarray:
    """Logits less each token's mean over experts, which no choice depends on."""
    logits = np.asarray(logits, np.float64)
    return logits - logits.mean(-1, keepdims=True)


def k_means(points: np.ndarray, types: int, seed: int = 0, starts: int = STARTS) -> KMeans:
    """k-means of scikit-learn, fitted.

    On one thread: with some thousand points its threads take thirty times longer to wait for each
    other than the work takes.

    Args:
        points: `[token, expert]`, centred logits.
        types: number of clusters.
        seed: of the starts.
        starts: runs from different starts, of which the tightest is kept.
    """
    count: Any = starts  # the stub of scikit-learn only knows "auto"
    with threadpool_limits(1):
        return KMeans(types, n_init=count, random_state=seed).fit(points)


def nearest_type(means: KMeans, points: np.ndarray) -> np.ndarray:
    """Type of each point, also on one thread."""
    with threadpool_limits(1):
        return np.asarray(means.predict(points))


def find_types(
    cluster_logits: np.ndarray,
    fit_logits: np.ndarray,
    fit_dispatch: np.ndarray,
    types: int,
    seed: int = 0,
    starts: int = STARTS,
) -> TokenTypes:
    """Cluster the tokens of one set of texts, measure the clusters on another.

    Args:
        cluster_logits: `[token, expert]`, texts of set B: k-means sees only these.
        fit_logits: `[token, expert]`, texts of set A, each put to the nearest centre.
        fit_dispatch: `[token, expert]`, 1 where a token of A chose the expert.
        types: number of types.
        seed: of k-means.
        starts: runs of k-means.
    """
    means = k_means(centred(cluster_logits), types, seed, starts)
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
    )
