"""The model once more, in numpy and complex numbers: nothing here knows of the package."""

import numpy as np
from scipy.special import erf

ACTIVATIONS = {
    "linear": lambda z: z,
    "relu": lambda z: z * (z.real > 0),
    "square": lambda z: z * z,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "gelu": lambda z: z * (1 + erf(z / 2**0.5)) / 2,
    "softplus": lambda z: np.log(1 + np.exp(z)),
}


def log_density(gate, vector, experts, x, y, temperature=False):
    """`[row]`, of a vector ordered weight, log temperature, offset, slope, intercept, log variance; complex
    numbers pass through."""
    k, d = experts, x.shape[1]
    relative = k == 1 or (gate == "linear" and not temperature)
    free = list(vector)

    def take(count):
        taken, free[:count] = np.array(free[:count]), []
        return taken

    rows = k - 1 if relative else k
    weight = np.concatenate([take(rows * d).reshape(rows, d), np.zeros((k - rows, d))])
    log_temperature = take(1)[0] if temperature else 0.0
    offset = np.append(take(k - 1), 0)
    slope, intercept, log_variance = take(k * d).reshape(k, d), take(k), take(k)
    assert not free
    logit = ACTIVATIONS[gate](x @ weight.T + 0j) / np.exp(log_temperature) + offset
    away = y[:, None] - x @ slope.T - intercept
    expert = -0.5 * (away**2 / np.exp(log_variance) + np.log(2 * np.pi) + log_variance)

    def total(terms):
        top = terms.real.max(1, keepdims=True)
        return top[:, 0] + np.log(np.exp(terms - top).sum(1))

    return total(logit + expert) - total(logit)


def score(gate, vector, experts, x, y, temperature=False):
    """`[row, parameter]`, by complex steps: exact to rounding."""
    columns = []
    for p in range(len(vector)):
        moved = np.asarray(vector, complex)
        moved[p] += 1e-30j
        columns.append(log_density(gate, moved, experts, x, y, temperature).imag / 1e-30)
    return np.stack(columns, -1)


def two_lines(rng, sets, n):
    """Two crossing lines with a soft gate: `x [set, n, 1]`, `y [set, n]`, and the vector that made them."""
    x = rng.uniform(size=(sets, n, 1))
    vector = np.array([8.0, -4.0, -2.0, 3.0, 1.0, -2.0, np.log(0.1), np.log(0.2)])
    chance = 1 / (1 + np.exp(-(8 * x[..., 0] - 4)))
    first = rng.uniform(size=(sets, n)) < chance
    mean = np.where(first, -2 * x[..., 0] + 1, 3 * x[..., 0] - 2)
    spread = np.where(first, 0.1, 0.2) ** 0.5
    return x, mean + spread * rng.standard_normal((sets, n)), vector
