"""The derivative of a root by the implicit function theorem: one rule for every scalar root.

With `condition(root, *inputs) = 0`, `d root = -(d condition / d inputs) / (d condition / d root)`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def attach_root(
    condition: Callable[..., Float[Array, "*lane"]],
    root: Float[Array, "*lane"],
    inputs: tuple[Array, ...],
    solved: Bool[Array, "*lane"],
) -> Float[Array, "*lane"]:
    """Identity in `root`, with its implicit derivative in `inputs` where `solved`, else NaN.

    A JVP rule that is linear in the tangents: reverse mode and higher orders follow. The NaN goes
    into the divisor: a `where` outside the rule would leave reverse mode with 0 * NaN.

    Args:
        condition: of the root and the inputs; every lane depends on its own root only. A function
            of a module, not a closure over traced values.
        root: as a solver found it. Its own derivative is ignored.
        inputs: floating arrays that the root depends on.
        solved: whether `root` is one.
    """
    del condition, inputs, solved
    return root


@attach_root.defjvp
def _attach_root_jvp(condition, primals, tangents):
    found, inputs, solved = primals
    _, dots, _ = tangents
    root = attach_root(condition, found, inputs, solved)
    _, slope = jax.jvp(lambda r: condition(r, *inputs), (root,), (jnp.ones_like(root),))
    slope = jnp.where(solved, slope, jnp.nan)
    _, push = jax.jvp(lambda *args: condition(root, *args), inputs, dots)
    return root, -push / slope
