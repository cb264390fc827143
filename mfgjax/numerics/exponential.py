"""Powers of two by polynomial: the one expensive operation of every fit.

`2^y = 2^k 2^f` with k the integer nearest to y: a polynomial in f, and k added to the exponent bits.
On CPU the compiler's own exponential is about half as fast per core in float64, and in float32 it
is not spread over the cores; on a GPU either runs at the speed of the memory.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

LOG2_E = 1.4426950408889634

# Coefficients of 2^f on [-1/2, 1/2], highest first: Chebyshev fits with largest relative errors of
# 3e-9 and 4e-18, below the rounding of their precision.
_FLOAT32 = (
    0.000154614446985691291,
    0.00134004281776158379,
    0.00961805667852463808,
    0.0555032722667030206,
    0.240226509222887581,
    0.693147206702832596,
    1.0,
)
_FLOAT64 = (
    4.45581790833606449e-10,
    7.07419429728852101e-9,
    1.01780570877339411e-7,
    1.32154325359123762e-6,
    0.0000152527338415567726,
    0.000154035304637243542,
    0.00133335581464064707,
    0.00961812910758725667,
    0.055504108664821627,
    0.240226506959101596,
    0.693147180559945309,
    1.0,
)


def exp2(power: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`2 ** power`, to about one unit in the last place. Carries no derivative.

    Args:
        power: below the largest exponent (127 in float32, 1023 in float64), not checked. What would
            fall below the smallest normal number gives that number, in place of zero.
    """
    dtype = power.dtype
    single = dtype == jnp.float32
    integer, mantissa = (jnp.int32, 23) if single else (jnp.int64, 52)
    power = jnp.maximum(power, jnp.asarray(-126 if single else -1022, dtype))
    whole = lax.round(power, lax.RoundingMethod.TO_NEAREST_EVEN)
    part = power - whole
    first, *others = _FLOAT32 if single else _FLOAT64
    value = jnp.full_like(part, first)
    for coefficient in others:
        value = value * part + jnp.asarray(coefficient, dtype)
    exponent = whole.astype(integer) << mantissa
    return lax.bitcast_convert_type(lax.bitcast_convert_type(value, integer) + exponent, dtype)


def rough_log(value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Natural logarithm to 1e-3, from the bits of single precision: for starting values.

    Zero gives the logarithm of the smallest normal number, as does anything below it.
    """
    single = jnp.maximum(value.astype(jnp.float32), jnp.finfo(jnp.float32).tiny)
    bits = lax.bitcast_convert_type(single, jnp.int32)
    # Exponent and mantissa read as one number are log2, linear between powers of two.
    linear = bits.astype(jnp.float32) * 2.0**-23 - 127.0
    part = linear - jnp.floor(linear)
    bend = part * (1 - part) * (0.4229 - 0.1592 * part)
    return ((linear + bend) * (1 / LOG2_E)).astype(value.dtype)
