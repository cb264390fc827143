"""Gap statistic: is a clustering tighter than it would be where there are no clusters?

Tibshirani, Walther and Hastie (2001), J. R. Statist. Soc. B 63(2), 411-423, with their reference (b):
uniform over the box aligned with the principal components of the data.
"""

import dataclasses

import numpy as np

from mfgjax.token_types.kmeans import k_means


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
