"""A few explicit steps that finish almost every single-type game with linear cost.

In logs `L = log a` of `a_i = (gamma/lambda) mu_i`, `z = q/lambda + log(gamma/lambda)`, the game is

    L_i + exp(L_i) = z_i - nu,          sum_i exp(L_i) = gamma/lambda.                        (1)

The Jacobian is an arrow, so a step of Chebyshev's method (order 3) in all M + 1 unknowns costs one
`exp` and two sums. It starts from one Newton step of the dual, `mu ~ pi/(1 + gamma pi/lambda)` with
`pi = softmax(q/lambda)`. There is no line search: what has not converged goes to `newton.py`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

ROUGH = 2  # static; steps in float32: 5e-1 -> 5e-3 -> 1e-7 with 64 experts, logits of spread 0.6
STEPS = ROUGH + 1
CLOSE = 1e-5  # of the last step; what it leaves is its cube, times less than 1


def explicit_loads(
    quality: Float[Array, " experts"], ratio: Float[Array, ""]
) -> tuple[Float[Array, " experts"], Bool[Array, ""]]:
    """Loads of (1), and whether the last step was small enough for them to be exact to rounding.

    All steps but the last are taken in float32, whatever the dtype of the game: they need no more,
    and cost a third.

    Args:
        quality: `q/lambda`.
        ratio: `gamma/lambda`, >= 0.
    """
    dtype = quality.dtype
    tiny = float(jnp.finfo(dtype).eps) ** 1.5  # keeps the logs finite at zero congestion
    x, total = quality - quality.max(), jnp.maximum(ratio, tiny)
    rough = _rough(x.astype(jnp.float32), total.astype(jnp.float32))
    log_a, nu = (part.astype(dtype) for part in rough)

    a = jnp.exp(log_a)
    step, _ = _chebyshev(x + jnp.log(total), total, log_a, a, nu)
    largest = jnp.abs(step).max()
    a = a * (1 + step * (1 + step * (0.5 + step * (1 / 6))))
    # In float32 the rough steps have the last word on rounding: their own limit is the step's.
    close = CLOSE if dtype == jnp.float64 else 30 * CLOSE
    return a / total, (largest <= close) & jnp.isfinite(largest)


def _rough(x: Float[Array, " experts"], total: Float[Array, ""]):
    """`log a` and `nu` after the dual's Newton step and `ROUGH` of Chebyshev's, for `x = q/lambda`."""
    raised = jnp.exp(x)
    free = raised * (1 / raised.sum())
    a = free / (1 + total * free)
    a = jnp.maximum(a * (total / a.sum()), float(jnp.finfo(a.dtype).tiny))
    log_a, z, nu = jnp.log(a), x + jnp.log(total), jnp.zeros_like(total)
    for _ in range(ROUGH):
        step, shift = _chebyshev(z, total, log_a, a, nu)
        log_a, nu = log_a + step, nu + shift
        a = jnp.exp(log_a)
    return log_a, nu


def _chebyshev(z, total, log_a, a, nu):
    """Third-order steps of `log_a` and `nu` in (1)."""
    inverse = 1 / (1 + a)
    w = a * inverse
    r = z - log_a - a - nu
    inverse_total = 1 / w.sum()
    shift = ((w * r).sum() + (a.sum() - total)) * inverse_total
    first = (r - shift) * inverse
    bend = 0.5 * w * first**2
    more = bend.sum() * inverse_total
    return first - bend - more * inverse, shift + more
