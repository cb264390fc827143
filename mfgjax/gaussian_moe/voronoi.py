"""Distance of a fitted mixture to the true one that forgives labels, splits and the gate's translation.

Fitted experts go to the nearest true one. With fitted masses m = softmax(offset), true masses
m*_j = exp(offset*_j), which are known up to a factor s = exp(t0), and gate weights known up to a common
vector t1,

    D = inf_s sum_j |sum_{i in j} m_i - s m*_j|
        + inf_t1 sum_i m_i (|w_i + t1 - w*_j|^r + |b_i - b*_j|^r + |a_i - a*_j|^q + |nu_i - nu*_j|^q),

where norms to a power are sums over coordinates, r = q = 1 for a true expert with one fitted one, and
(r, q) = (4, 2), (6, 3), (7, 3.5) for one with two, three, more (Ho, Nguyen: the order of the polynomial
system that says how fast a split expert can be seen; arXiv 2305.03288). Both infima are exact: in t1 it is,
coordinate by coordinate, the minimum of a convex function of one number; in s a convex, piecewise linear
function has its minimum at 0 or at a kink.
"""

import numpy as np
from jaxtyping import Float

from mfgjax.gaussian_moe.model import Mixture

_POWERS = {1: (1.0, 1.0), 2: (4.0, 2.0), 3: (6.0, 3.0)}
_MANY = (7.0, 3.5)
_HALVINGS = 200


def voronoi_loss(
    fitted: Mixture, truth: Mixture, *, translate: bool = True
) -> Float[np.ndarray, "*batch"]:
    """D of a batch of fitted mixtures and one true one; not differentiable, on the host, float64.

    Args:
        fitted: batch axes first.
        truth: one mixture with the same gate and features, in the same units of x and y. Cells are found by
            slope, intercept and variance as they are: choose units in which the three compare.
        translate: take the infimum. False leaves masses and weights as they are given, which is what
            published code does; the loss then sticks where the reference expert was split. Gates that
            are not linear have no translation of weights, only of offsets.

    Returns:
        D, NaN where `fitted` has NaN.
    """
    batch = np.shape(fitted.offset)[:-1]

    def differences(name: str) -> np.ndarray:
        mine = np.asarray(getattr(fitted, name), float)
        mine = mine.reshape(-1, *mine.shape[len(batch) :])
        mine = mine if mine.ndim == 3 else mine[..., None]
        known = np.asarray(getattr(truth, name), float)
        known = known if known.ndim == 2 else known[:, None]
        return mine[:, :, None] - known[None, None]  # [set, fitted, true, coordinate]

    away = [differences(n) for n in ("slope", "intercept", "variance")]
    cell = np.sum([(d**2).sum(-1) for d in away], axis=0).argmin(-1)  # [set, fitted]
    size = (cell[:, :, None] == cell[:, None]).sum(-1)
    table = np.array([_POWERS.get(m, _MANY) for m in range(cell.shape[1] + 1)])
    r, q = table[size, 0], table[size, 1]

    def own(difference: np.ndarray) -> np.ndarray:
        return np.take_along_axis(difference, cell[:, :, None, None], 2)[:, :, 0]

    slope, intercept, variance = map(own, away)
    weight = own(differences("weight"))
    offset = np.asarray(fitted.offset, float).reshape(-1, cell.shape[1])
    known = np.exp(np.asarray(truth.offset, float))
    mass = np.exp(offset)
    if translate:
        mass = np.exp(offset - offset.max(-1, keepdims=True))
        mass = mass / mass.sum(-1, keepdims=True)
        known = known / known.sum()
    if translate and truth.gate == "linear":
        weight = weight + _best_shift(weight, mass, r)[:, None]
    cost = (np.abs(weight) ** r[..., None]).sum(-1) + (np.abs(intercept) ** r[..., None]).sum(-1)
    cost += (np.abs(slope) ** q[..., None]).sum(-1) + (np.abs(variance) ** q[..., None]).sum(-1)
    cells = np.stack([(mass * (cell == j)).sum(-1) for j in range(len(known))], -1)
    factors = np.ones((len(cells), 1))
    if translate:
        factors = np.concatenate([cells / known, np.zeros((len(cells), 1))], -1)
    masses = np.abs(cells[:, None] - factors[..., None] * known).sum(-1).min(-1)
    return (masses + (mass * cost).sum(-1)).reshape(batch)


def _best_shift(difference: np.ndarray, mass: np.ndarray, power: np.ndarray) -> np.ndarray:
    """argmin_t sum_i mass_i |difference_i + t|^power_i, by set and coordinate: the sign of the derivative,
    which rises in t, halved to the last bit."""
    low, high = -difference.max(1), -difference.min(1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        gap = difference + middle[:, None]
        pull = power[..., None] * np.abs(gap) ** (power[..., None] - 1) * np.sign(gap)
        rises = (mass[..., None] * pull).sum(1) > 0
        low, high = np.where(rises, low, middle), np.where(rises, middle, high)
    return (low + high) / 2
