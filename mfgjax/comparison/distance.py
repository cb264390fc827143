"""Distances from an observed load to a predicted one, on the host, over the last axis."""

import numpy as np
from scipy.special import rel_entr


def l1_distance(observed: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """`sum |observed - predicted|`, 0 to 2: the error of arXiv 2604.04230."""
    return np.abs(observed - predicted).sum(-1)


def kl_divergence(observed: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """`KL(observed || predicted)` in nats; infinite where a used expert was predicted dead."""
    return rel_entr(observed, predicted).sum(-1)


def js_divergence(observed: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in nats, 0 to log 2."""
    middle = (observed + predicted) / 2
    return (rel_entr(observed, middle) + rel_entr(predicted, middle)).sum(-1) / 2


DISTANCES = {"l1": l1_distance, "kl": kl_divergence, "js": js_divergence}
