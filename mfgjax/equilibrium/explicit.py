"""A few explicit steps that finish almost every single-type game with linear cost.

In logs `L = log a` of `a_i = (gamma/lambda) mu_i`, `z = q/lambda + log(gamma/lambda)`, the game is

    L_i + exp(L_i) = z_i - nu,          sum_i exp(L_i) = gamma/lambda.                        (1)

The Jacobian is an arrow, so a step of Chebyshev's method (order 3) in all M + 1 unknowns costs one
`exp` and two sums. It starts from one Newton step of the dual, `mu ~ pi/(1 + gamma pi/lambda)` with
`pi = softmax(q/lambda)`. There is no line search: what has not converged goes to `newton.py`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mfgjax.equilibrium.logarithm import logarithm

STEPS = 3  # static; 5e-1 -> 5e-3 -> 1e-8 -> rounding at 64 experts with logits of spread 0.6


def explicit_loads(
    quality: Float[Array, " experts"], ratio: Float[Array, ""]
) -> tuple[Float[Array, " experts"], Bool[Array, ""]]:
    """Loads of (1), and whether the last step was small enough for them to be exact to rounding.

    Args:
        quality: `q/lambda`.
        ratio: `gamma/lambda`, >= 0.
    """
    eps = float(jnp.finfo(quality.dtype).eps)
    total = jnp.maximum(ratio, eps**1.5)  # keeps the logs finite at zero congestion
    raised = jnp.exp(quality - quality.max())
    free = raised * (1 / raised.sum())
    a = free / (1 + total * free)
    a = jnp.maximum(a * (total / a.sum()), jnp.finfo(a.dtype).tiny)
    z = quality + jnp.log(total)
    log_a = logarithm(a)
    nu = jnp.zeros_like(total)
    step = jnp.zeros_like(a)
    for count in range(STEPS):
        a = a if count == 0 else jnp.exp(log_a)
        inverse = 1 / (1 + a)
        w = a * inverse
        r = z - log_a - a - nu
        shift = ((w * r).sum() + (a.sum() - total)) / w.sum()
        first = (r - shift) * inverse
        bend = 0.5 * w * first**2
        more = bend.sum() / w.sum()
        step = first - bend - more * inverse
        nu = nu + shift + more
        log_a = log_a + step
    done = (jnp.abs(step).max() <= 0.5 * eps ** (1 / 3)) & jnp.isfinite(step).all()
    return jnp.exp(log_a) / total, done
