"""Stability of a clustering: do other texts of the same kind give the same types?"""

import numpy as np
from sklearn.metrics import adjusted_rand_score

from mfgjax.token_types.kmeans import k_means, nearest_type


def clustering_stability(
    points: np.ndarray, text: np.ndarray, types: int, *, pairs: int = 10, seed: int = 0
) -> np.ndarray:
    """Adjusted Rand index between clusterings of two resamples of the texts, per pair of resamples.

    Both clusterings sort all tokens. 1 is agreement on every token, 0 is what chance gives
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

    def clustered() -> np.ndarray:
        drawn = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        start = int(rng.integers(2**31))
        return nearest_type(k_means(points[drawn], types, start), points)

    return np.array([adjusted_rand_score(clustered(), clustered()) for _ in range(pairs)])
