"""All differences that a set of difference constraints allows: `b_i - b_j >= bound_ij`, closed.

The tightest bound that follows is the longest path from i to j, found by Floyd and Warshall's recursion

    bound_ij <- max(bound_ij, bound_ik + bound_kj),   k = 1..M,

and a positive cycle proves that no b keeps every constraint (Cormen et al., Introduction to Algorithms,
24.4 and 25.2). Every sum is rounded down, so what comes out is true in float32 too.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.jit
def close_bounds(
    bound: Float[Array, "*batch expert expert"],
) -> Float[Array, "*batch expert expert"]:
    """Tightest lower bounds of every difference. Never raises; not meant to be differentiated.

    M^3 work and M^2 memory per instance; a fixed loop of M steps.

    Args:
        bound: lower bounds of `b_i - b_j`; -inf for none. The diagonal is not read.

    Returns:
        The closed bounds. A diagonal entry above 0 is a proof of a conflict: the constraints exclude
        each other, and the other entries of that instance mean nothing. Without one it is 0.
    """
    experts = bound.shape[-1]
    own = jnp.eye(experts, dtype=bool)
    start = jnp.where(own, 0, bound)
    eps = jnp.finfo(bound.dtype).eps
    most = jnp.finfo(bound.dtype).max / 8  # a conflict grows at each step, and must not reach inf

    def step(k, found):
        through = found[..., :, k, None] + found[..., None, k, :]
        through = through - eps * jnp.abs(through)
        through = jnp.where(jnp.isneginf(through), -jnp.inf, jnp.clip(through, -most, most))
        return jnp.maximum(found, through)

    return jax.lax.fori_loop(0, experts, step, start)


def has_conflict(closed: Float[Array, "*batch expert expert"]):
    """Whether closed bounds exclude each other, `[*batch]` bool."""
    return jnp.diagonal(closed, axis1=-2, axis2=-1).max(-1) > 0
