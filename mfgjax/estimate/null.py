"""The congestion that a router without any balancing would show: the dispersion null, closed form.

Token logits `z_i = q_i + sigma eps_i` with independent standard normal eps and top-K of M, no
balancing and no game, give a load of about `exp(h q_i / sigma)`, where h is the normal hazard
`pdf / (1 - cdf)` at the upper K/M quantile. Definition 3.1 fitted to that load returns

    gamma_null = M (sigma / h - 1)                                                         (1)

(derived: match the slope of log load in q around the uniform load, where `log load_i = h q_i/sigma`
must equal `q_i - gamma load_i` with `d load_i = d log load_i / M`). Good for small spread of q.
"""

from statistics import NormalDist

import jax.numpy as jnp
from jaxtyping import Array, Float


def normal_hazard(top_k: int, experts: int, dtype=jnp.float32) -> Float[Array, ""]:
    """Hazard of the standard normal at its upper `top_k / experts` quantile: 1.647 at 8 of 64.

    Raises:
        ValueError: unless `0 < top_k < experts`: with all experts chosen the load is uniform.
    """
    if not 0 < top_k < experts:
        raise ValueError(f"top_k must be in 1..experts-1, got top_k={top_k}, experts={experts}")
    share = top_k / experts
    normal = NormalDist()
    return jnp.asarray(normal.pdf(normal.inv_cdf(1 - share)) / share, dtype)


def null_congestion(
    dispersion: Float[Array, "*batch"], top_k: int, experts: int, temperature: float = 1.0
) -> Float[Array, "*batch"]:
    """`gamma_null` of (1), signed. Linear in `dispersion`, so differentiable and bootstrappable.

    Args:
        dispersion: token-level standard deviation of the logits (`estimate_dispersion`).
        top_k: experts chosen per token. Static.
        experts: number of experts M. Static.
        temperature: of the fit that it is compared with.
    """
    hazard = normal_hazard(top_k, experts, dispersion.dtype)
    return experts * (dispersion / hazard - temperature)
