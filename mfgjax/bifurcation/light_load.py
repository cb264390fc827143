"""The light solution of `ln x - x = d`, the scaled load of an expert that does not lead.

In `x = feedback * load` every expert of an equilibrium solves `ln x_i - x_i = quality_i - nu` with one
`nu` for all, and `sum_i x_i = feedback`. For `d < -1` there are two solutions, a light one in (0, 1)
and a heavy one above 1 (the two real branches of Lambert's W, `x = -W(-e^d)`).
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_HALLEY_STEPS = 6


@jax.custom_jvp
def light_load(d: Float[Array, "..."]) -> Float[Array, "..."]:
    """The solution in (0, 1] of `ln x - x = d` for `d <= -1`; NaN above. Elementwise.

    Differentiable to any order in both modes: `dx = x / (1 - x) dd`, infinite at `d = -1`.
    """
    # series at the end of the branch for large x, e^d (1 + e^d) for small x
    root = jnp.sqrt(jnp.maximum(-2.0 * (1.0 + d), 0.0))
    near = 1.0 - root * (1.0 - root / 3.0 + root**2 / 36.0)
    far = jnp.exp(d) * (1.0 + jnp.exp(d))
    x = jnp.where(d > -1.7, near, far)

    def halley(_, x):
        # in the log of x: f = y - e^y - d
        value = jnp.log(x) - x - d
        slope = 1.0 - x
        safe = jnp.where(slope > 0, slope, 1.0)
        step = jnp.where(slope > 0, value / (safe + 0.5 * value * x / safe), 0.0)
        return jnp.minimum(x * jnp.exp(-step), 1.0)

    # a loop, not six copies: this sits inside other loops and compiles often
    x = lax.fori_loop(0, _HALLEY_STEPS, halley, x)
    return jnp.where(d <= -1.0, x, jnp.nan)


@light_load.defjvp
def _light_load_jvp(primals, tangents):
    x = light_load(primals[0])
    return x, x / (1.0 - x) * tangents[0]
