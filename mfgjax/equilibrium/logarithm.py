"""A natural logarithm that vectorises on CPU in float64.

XLA on CPU calls a scalar routine for the float64 logarithm: 12 ns an element against 1 for `exp`,
which would be nine tenths of a solve. This one is arithmetic only: exponent from the bits, and
`log m = 2 artanh((m - 1)/(m + 1))` by its series, for m in [sqrt(1/2), sqrt(2)].
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

TERMS = 11  # s^2 <= 0.0295, so the first term left out is below 1e-18 of the sum
LN2_HIGH = 0.6931471806019545  # 32 bits: exact times any exponent
LN2_LOW = -4.2009150726810846e-11


def logarithm(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`log(x)` to 2 units in the last place, for positive normal `x`; not differentiable."""
    if x.dtype != jnp.float64:
        return jnp.log(x)
    bits = lax.bitcast_convert_type(x, jnp.int64)
    # Shift so that the mantissa's cut is at sqrt(1/2), not at 1: no cancellation near 1.
    shifted = bits - 0x3FE6A09E667F3BCD
    exponent = shifted >> 52
    mantissa = lax.bitcast_convert_type(bits - (exponent << 52), jnp.float64)
    s = (mantissa - 1) / (mantissa + 1)
    square = s * s
    tail = jnp.full_like(s, 1 / (2 * TERMS + 1))
    for n in range(TERMS - 1, 0, -1):
        tail = tail * square + 1 / (2 * n + 1)
    power = exponent.astype(jnp.float64)
    return power * LN2_HIGH + (power * LN2_LOW + 2 * (s + s * square * tail))
