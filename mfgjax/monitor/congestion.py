"""Signed congestion of a batch of layers in NumPy: the estimate of `mfgjax.estimate`, without JAX.

Definition and existence: `mfgjax.estimate.congestion.kl`. Tests hold the two together. The null
beside it is `mfgjax.estimate.null.dispersion`'s closed form, `M (sigma / h - 1)`.
"""

from statistics import NormalDist

import numpy as np
from jaxtyping import Float

_DOUBLINGS, _HALVINGS = 40, 60


def signed_congestion(
    quality: Float[np.ndarray, "layer expert"], load: Float[np.ndarray, "layer expert"]
) -> Float[np.ndarray, " layer"]:
    """Root in gamma of `sum f^2 = sum_i f_i softmax(quality - gamma f)_i`, temperature 1.

    NaN where the load is uniform or not finite, -inf where all experts that have a load share it
    evenly. Accurate to 1e-10 relative.
    """
    spread = np.ptp(load, axis=-1)
    known = np.isfinite(load).all(-1) & np.isfinite(quality).all(-1) & (spread > 1e-12)
    scale = np.where(known, spread, 1)[:, None]
    direction = np.where(known[:, None], load, 0) / scale
    quality = np.where(known[:, None], quality - quality.max(-1, keepdims=True), 0)
    target = (np.where(known[:, None], load, 0) * direction).sum(-1)
    unbounded = known & (target >= direction.max(-1) * (1 - 1e-12))

    def surplus(theta):  # falls in theta
        power = quality - theta[:, None] * direction
        weight = np.exp(power - power.max(-1, keepdims=True))
        return (weight * direction).sum(-1) / weight.sum(-1) - target

    size = np.ones(len(load))
    for _ in range(_DOUBLINGS):
        short = known & ~unbounded & ((surplus(-size) < 0) | (surplus(size) > 0))
        if not short.any():
            break
        size = np.where(short, 2 * size, size)
    low, high = -size, size
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        right = surplus(middle) > 0
        low, high = np.where(right, middle, low), np.where(right, high, middle)
    found = np.where(known, (low + high) / 2 / scale[:, 0], np.nan)
    return np.where(unbounded, -np.inf, found)


def dispersion_null(dispersion: float, top_k: int, experts: int) -> float:
    """Congestion that a router without balancing shows, of logits with this spread over tokens.

    NaN where every expert is chosen.
    """
    if not 0 < top_k < experts:
        return float("nan")
    share = top_k / experts
    normal = NormalDist()
    hazard = normal.pdf(normal.inv_cdf(1 - share)) / share
    return experts * (dispersion / hazard - 1)
