"""Which type continues which, between two clusterings: the numbers of clusters are arbitrary."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist


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


def match_qualities(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The same for clusterings without tokens in common: least squared distance of qualities.

    Args:
        before: `[type, expert]`.
        after: `[type, expert]`, the same experts.
    """
    return linear_sum_assignment(cdist(before, after, "sqeuclidean"))[1]
