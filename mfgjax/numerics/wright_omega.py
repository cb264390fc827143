"""The Wright omega function: the solution `w > 0` of `w + log w = z`.

Two Fritsch-Shafer-Crowley steps (order 4 each) from a starting value within 2%, as in Lawrence,
Corless and Jeffrey (2012), Algorithm 917, DOI 10.1145/2168773.2168779.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.equilibrium.logarithm import logarithm


def wright_omega(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`w > 0` with `w + log w = z`, to a few units in the last place.

    Not differentiated here: its callers carry implicit derivatives. Underflows to 0 with `exp(z)`.
    """
    small = jnp.exp(jnp.minimum(z, 0))
    grown = jnp.maximum(z, 0) + logarithm(1 + jnp.exp(-jnp.abs(z)))  # log(1 + e^z)
    start = jnp.where(z > -3, grown * (1 - logarithm(1 + grown) / (2 + grown)), small)
    return refine_omega(refine_omega(start, z), z)


def refine_omega(w: Float[Array, "*shape"], z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """One step of order 4 towards `wright_omega(z)`; the identity where `w` has underflowed."""
    tiny = jnp.finfo(w.dtype).tiny
    safe = jnp.maximum(w, tiny)
    r = z - safe - logarithm(safe)
    one = 1 + safe
    q = 2 * one * (one + 2 / 3 * r)
    return jnp.where(w > tiny, safe * (1 + r / one * (q - r) / (q - 2 * r)), w)
