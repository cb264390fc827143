"""What balance metrics show of a router that chooses at random: their floor, by sampling alone.

Each of T tokens chooses K of M experts uniformly. A count then has mean `T K / M` and variance
`T (K/M) (1 - K/M)`, so the load relative to its mean has standard deviation

    sigma = sqrt((1 - K/M) / (T K / M)),                                                   (1)

and any two counts have correlation -1/(M - 1). For counts that are nearly normal (T K / M above
about 10), with e_M the mean of the largest of M independent standard normals (derived: taking off
the mean leaves the largest of equally correlated normals, scaled by `sqrt(M/(M-1))`),

    E MaxVio = sigma sqrt(M / (M - 1)) e_M,         E cv^2 = sigma^2.                      (2)

A metric below its floor says nothing. Tokens of one text choose alike, which raises the true floor.
NumPy only, so that training code can import it without JAX.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr


def load_noise(
    tokens: float | Float[np.ndarray, "*batch"], top_k: int, experts: int
) -> Float[np.ndarray, "*batch"]:
    """sigma of (1): standard deviation of one expert's load over its mean. NaN without tokens.

    Raises:
        ValueError: unless `0 < top_k <= experts`.
    """
    if not 0 < top_k <= experts:
        raise ValueError(f"top_k must be in 1..experts, got top_k={top_k}, experts={experts}")
    tokens = np.asarray(tokens, float)
    return np.sqrt((experts / top_k - 1) / np.where(tokens > 0, tokens, np.nan))


def max_violation_floor(
    tokens: float | Float[np.ndarray, "*batch"], top_k: int, experts: int
) -> Float[np.ndarray, "*batch"]:
    """Mean MaxVio of uniform random choices, (2): 0.14 for 2,048 tokens, top-8 of 64.

    Args:
        tokens: tokens behind the load.
        top_k: experts per token.
        experts: M.
    """
    scale = np.sqrt(experts / (experts - 1)) if experts > 1 else 0.0
    return load_noise(tokens, top_k, experts) * scale * _mean_of_largest(experts, two_sided=False)


def max_absolute_violation_floor(
    tokens: float | Float[np.ndarray, "*batch"], top_k: int, experts: int
) -> Float[np.ndarray, "*batch"]:
    """The same of the largest distance either way, to 3%: the correlation of counts is left out."""
    noise = load_noise(tokens, top_k, experts)
    if experts <= 2:  # both are equally far
        return noise * np.sqrt(2 / np.pi) * (experts > 1)
    return noise * _mean_of_largest(experts, two_sided=True)


@lru_cache
def _mean_of_largest(count: int, two_sided: bool) -> float:
    """Mean of the largest of `count` standard normals, or of their absolute values, by quadrature."""
    x = np.linspace(-10, 10, 4001)
    below = np.maximum(2 * ndtr(x) - 1, 0) if two_sided else ndtr(x)
    # E max = int_0^inf (1 - F) dx - int_-inf^0 F dx
    density = np.where(x >= 0, 1 - below**count, -(below**count))
    return float(np.trapezoid(density, x))
