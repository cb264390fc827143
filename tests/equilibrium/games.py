"""Games shared by the tests of this folder."""

import jax.numpy as jnp
import numpy as np

from mfgjax.game import CapacityBarrier, Game, Linear, Power, Softplus, UserCost


def cubic(load, scale):
    """A user's cost."""
    return scale * load + load**3


COSTS = {
    "linear": Linear(),
    "power": Power(1.7),
    "root": Power(0.5),
    "barrier": CapacityBarrier(0.4),
    "softplus": Softplus(0.1, 8.0),
    "user": UserCost(cubic, jnp.asarray(2.0)),
}
PRICES = {  # the same shapes in numpy, for complex numbers too
    "linear": lambda f: f,
    "power": lambda f, exponent: f**exponent,
    "root": lambda f, exponent: f**exponent,
    "barrier": lambda f, capacity: f / (1 - f / capacity),
    "softplus": lambda f, threshold, sharpness: (
        np.log1p(np.exp(sharpness * (f - threshold))) / sharpness
    ),
    "user": lambda f, scale: scale * f + f**3,
}


def draw(seed, batch, types, experts, dtype=np.float64, cost=None, spread=50.0, top=5.0):
    """Random games: |q| up to `spread`, congestion log-uniform in [1e-3, 10^top]."""
    rng = np.random.default_rng(seed)
    shape = (batch, experts) if types is None else (batch, types, experts)
    weight = None if types is None else rng.dirichlet(np.full(types, 0.5), batch).astype(dtype)
    quality = rng.uniform(-spread, spread, shape).astype(dtype)
    congestion = (10 ** rng.uniform(-3, top, batch)).astype(dtype)
    return Game(quality, congestion, 1.0, weight, cost)


def slow_equilibrium(quality, congestion, weight, temperature=1.0, steps=3000):
    """Dispatch fractions after many damped responses, by numpy; linear cost, batch axes in front."""
    congestion = np.asarray(congestion, float)[..., None]
    load = np.full((*quality.shape[:-2], quality.shape[-1]), 1 / quality.shape[-1])
    for _ in range(steps):
        logits = (quality - (congestion * load)[..., None, :]) / temperature
        rows = np.exp(logits - logits.max(-1, keepdims=True))
        rows /= rows.sum(-1, keepdims=True)
        load = load + (weight @ rows - load) / (1 + congestion / (2 * temperature))
    return rows
