"""How strongly the best response contracts, and which bounds that leaves standing.

The Jacobian of `Phi(f) = softmax((q - gamma f)/lambda)` is `-(gamma/lambda) (diag(pi) - pi pi^T)` with
`pi = Phi(f)`. Three rates follow (arXiv 2604.04230, Lemma 5.4 and Remark 5.5):

* worst case, over all loads: `gamma / (2 lambda)`;
* L1 at the equilibrium: `(gamma/lambda) max_i 2 pi_i (1 - pi_i)`;
* spectral at the equilibrium: largest eigenvalue of the Jacobian in size. Below 1, undamped iteration
  of the best response converges from nearby; above 1 it does not.

A bound that divides by `1 - rho` needs a rho < 1 on a set that holds both fixed points, so only the
worst-case rate supports it; the two local rates describe the equilibrium's neighbourhood and no more
(Remark 5.5 reads more into them). Where rho >= 1 such a bound says nothing: it is `vacuous`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def worst_case_rate(
    congestion: Float[Array, "*batch"], temperature: float | Float[Array, "*batch"] = 1.0
) -> Float[Array, "*batch"]:
    """L1 contraction rate that holds at every load (Lemma 5.4)."""
    return jnp.abs(congestion) / (2 * temperature)


def l1_rate(
    response: Float[Array, "*batch expert"],
    congestion: Float[Array, "*batch"],
    temperature: float | Float[Array, "*batch"] = 1.0,
) -> Float[Array, "*batch"]:
    """L1 operator norm of the Jacobian where the best response is `response` (Remark 5.5)."""
    steepest = (2 * response * (1 - response)).max(-1)
    return jnp.abs(congestion) / temperature * steepest


def spectral_rate(
    response: Float[Array, "*batch expert"],
    congestion: Float[Array, "*batch"],
    temperature: float | Float[Array, "*batch"] = 1.0,
) -> Float[Array, "*batch"]:
    """Spectral radius of the Jacobian where the best response is `response`; O(M^3)."""
    diagonal = (
        response[..., None]
        * jnp.eye(response.shape[-1], dtype=response.dtype)[(None,) * (response.ndim - 1)]
    )
    covariance = diagonal - response[..., :, None] * response[..., None, :]
    return jnp.abs(congestion) / temperature * jnp.linalg.eigvalsh(covariance)[..., -1]


def vacuous(rate: Float[Array, "*batch"]) -> Bool[Array, "*batch"]:
    """Whether a bound that divides by `1 - rate` says nothing."""
    return ~(rate < 1)
