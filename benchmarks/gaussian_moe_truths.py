"""Mixtures with a known truth, data from them, and starts near them."""

import jax
import numpy as np

from mfgjax.gaussian_moe import Mixture

GRID = ((np.arange(2000) + 0.5) / 2000)[:, None]


def truth(gate: str, weight=(8.0, -6.0), temperature: float = 0.2, b0: float = -0.4) -> Mixture:
    """The published mixture, or its experts behind a gate with a temperature."""
    linear = gate == "linear"
    w, c = ((25.0, 0.0), -8.0) if linear else (weight, b0 / temperature)
    return Mixture(
        np.array(w)[:, None],
        np.array([c, 0.0]),
        np.array(np.nan if linear else temperature),
        np.array([[-20.0], [20.0]]),
        np.array([15.0, -5.0]),
        np.array([0.09, 0.16]),
        gate,
    )


TRUTHS = {
    "linear": truth("linear"),
    "sigmoid (20, 3)": truth("sigmoid", (20.0, 3.0), 0.1, -0.165),
    "sigmoid (8, -6)": truth("sigmoid"),
}


def draw(mixture: Mixture, replicates: int, n: int, rng: np.random.Generator):
    """`x [replicate, n, 1]`, `y [replicate, n]`."""
    x = rng.uniform(size=(replicates, n, 1))
    with jax.enable_x64(True):
        flat = x.reshape(-1, 1)
        chance = np.exp(np.asarray(mixture.log_gate(flat)))
        mean = np.asarray(mixture.expert_mean(flat))
    chosen = (rng.uniform(size=len(flat))[:, None] > np.cumsum(chance, -1)).sum(-1)
    chosen = np.minimum(chosen, chance.shape[1] - 1)
    y = mean[np.arange(len(flat)), chosen]
    y = y + np.sqrt(np.asarray(mixture.variance))[chosen] * rng.standard_normal(len(flat))
    return x, y.reshape(replicates, n)


def near_start(mixture: Mixture, experts: int, n: int, replicates: int, rng) -> Mixture:
    """As published: fitted experts assigned to true ones at random, each at least once, plus small noise."""
    true = range(mixture.experts)
    extra = rng.integers(0, len(true), (replicates, experts - len(true)))
    cell = np.concatenate([np.tile(true, (replicates, 1)), extra], 1)
    share = np.stack([(cell == j).sum(1) for j in true], -1)

    def near(name, noise):
        value = np.asarray(getattr(mixture, name))[cell]
        return value + noise * n**-0.083 * rng.standard_normal(value.shape)

    offset = near("offset", 0.005) - np.log(np.take_along_axis(share, cell, 1))
    variance = np.abs(near("variance", 0.05)) + 0.01
    heat = np.tile(mixture.temperature, replicates)
    parts = near("weight", 0.005), offset, heat, near("slope", 0.05), near("intercept", 0.05)
    return Mixture(*parts, variance, mixture.gate)
