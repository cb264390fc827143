"""How many types there are: by held-out likelihood, by the gap statistic, by stability.

The gap statistic asks whether a clustering is tighter than it would be where there are no clusters:
Tibshirani, Walther and Hastie (2001), J. R. Statist. Soc. B 63(2), 411-423, with their reference (b):
uniform over the box aligned with the principal components of the data.
"""

import dataclasses

import numpy as np
from sklearn.metrics import adjusted_rand_score

from mfgjax.token_types.held_out import LIKELIHOOD, HeldOutTypes
from mfgjax.token_types.kmeans import k_means, nearest_type


@dataclasses.dataclass(frozen=True)
class Gap:
    """Per number of types.

    Attributes:
        types: numbers of types.
        gap: mean log dispersion of the references less that of the data; large is clustered.
        error: standard error of `gap`, simulation included, `sd sqrt(1 + 1/references)`.
    """

    types: np.ndarray
    gap: np.ndarray
    error: np.ndarray

    def chosen(self) -> int | None:
        """The paper's rule: the smallest K with `gap(K) >= gap(K+1) - error(K+1)`.

        None if the gap still grows at the largest K tried.
        """
        enough = self.gap[:-1] >= self.gap[1:] - self.error[1:]
        return int(self.types[:-1][enough][0]) if enough.any() else None


def gap_statistic(
    points: np.ndarray, most_types: int = 8, *, references: int = 10, seed: int = 0
) -> Gap:
    """Gap for 1 to `most_types` clusters.

    Args:
        points: `[token, expert]`, centred logits.
        most_types: largest number of clusters, at least 2.
        references: uniform samples to compare with.
        seed: of the references and of k-means.

    Raises:
        ValueError: fewer points than clusters.
    """
    points = np.asarray(points, np.float64)
    if len(points) < most_types or most_types < 2:
        raise ValueError(f"{len(points)} tokens and {most_types} types: 2 <= types <= tokens")
    rng = np.random.default_rng(seed)
    centred = points - points.mean(0)
    # Rotations change no distance: the references are drawn in the frame of the components.
    _, _, components = np.linalg.svd(centred, full_matrices=False)
    rotated = centred @ components.T
    low, high = rotated.min(0), rotated.max(0)
    own = _log_dispersion(rotated, most_types, seed)
    drawn = np.stack(
        [
            _log_dispersion(rng.uniform(low, high, rotated.shape), most_types, seed)
            for _ in range(references)
        ]
    )
    return Gap(
        types=np.arange(1, most_types + 1),
        gap=drawn.mean(0) - own,
        error=drawn.std(0) * np.sqrt(1 + 1 / references),
    )


def _log_dispersion(points: np.ndarray, most_types: int, seed: int) -> np.ndarray:
    total = ((points - points.mean(0)) ** 2).sum()
    inertia = [total]
    for types in range(2, most_types + 1):
        inertia.append(k_means(points, types, seed).inertia_)
    return np.log(np.maximum(inertia, np.finfo(np.float64).tiny))


def clustering_stability(
    points: np.ndarray, text: np.ndarray, types: int, *, pairs: int = 10, seed: int = 0
) -> np.ndarray:
    """Adjusted Rand index between clusterings of two resamples of the texts, per pair of resamples.

    Each clustering is the tighter of one from a start of its own and one from the centres of the whole
    sample: true clusters are found from there, and where there are none the start decides. Both clusterings sort all tokens. 1 is agreement on every token, 0 is what chance gives
    (Hubert and Arabie 1985). Whole texts are resampled: tokens of a text are alike.

    Args:
        points: `[token, expert]`, centred logits.
        text: text of each token, `[token]`.
        types: number of clusters, at least 2.
        pairs: pairs of resamples.
        seed: of the resamples and of k-means.

    Raises:
        ValueError: a single text, or fewer than two types.
    """
    if types < 2:
        raise ValueError(f"{types} types: agreement needs at least 2")
    points = np.asarray(points, np.float64)
    rows = [np.flatnonzero(text == own) for own in np.unique(text)]
    if len(rows) < 2:
        raise ValueError("resampling needs the tokens of at least 2 texts")
    rng = np.random.default_rng(seed)
    centres = k_means(points, types, seed).cluster_centers_

    def clustered() -> np.ndarray:
        drawn = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        start = int(rng.integers(2**31))
        return nearest_type(k_means(points[drawn], types, start, 1, centres), points)

    return np.array([adjusted_rand_score(clustered(), clustered()) for _ in range(pairs)])


def choose_types(held: HeldOutTypes) -> list[int]:
    """Number of types of each layer by held-out likelihood.

    The smallest one that is within two standard errors (over texts, paired) of the best. It counts
    what the game needs, not clusters: a router whose choice is a function of the logits needs many
    types even where the logits have no clusters at all. `gap_statistic` counts clusters.
    """
    chosen = []
    for layer in range(len(held.layers)):
        score = held.joint[LIKELIHOOD, :, layer]
        best = score[score.sum(-1).argmax()]
        for types, own in zip(held.types, score, strict=True):
            behind, error = mean_and_error(best - own, held.tokens)
            if behind <= 2 * error:
                chosen.append(types)
                break
    return chosen


def mean_and_error(change: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """Mean per token of sums per text, and its standard error over texts (a ratio estimate)."""
    mean = change.sum() / tokens.sum()
    texts = len(tokens)
    rest = change - mean * tokens
    return mean, np.sqrt((rest**2).sum() * texts / (texts - 1)) / tokens.sum()
