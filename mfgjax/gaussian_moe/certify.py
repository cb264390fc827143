"""What a search that has ended is worth: status, covariances, null directions, of one data set."""

import jax.numpy as jnp
from jaxtyping import Array

from mfgjax.gaussian_moe.layout import Layout, Units, inverse_units
from mfgjax.gaussian_moe.model import mirror, to_mixture
from mfgjax.gaussian_moe.polish import FLAT, Polished, held, scaled_eigen
from mfgjax.gaussian_moe.result import MixtureStatus
from mfgjax.gaussian_moe.scores import Rows, outer_product


def certify(
    layout: Layout,
    rows: Rows,
    units: Units,
    ended: Polished,
    box: tuple[Array, Array],
    tolerance: Array,
):
    """Of one data set: mixture and vector, status and what `MixtureFit` has from decrement to at_bound.

    Null directions are those of the outer product of the scores, which is singular along them at any
    vector; the Hessian is so only where the score vanishes. Covariances are over what is left.

    Of two mirror images the upright one is taken, with its own matrices; and of two that are nearer to each
    other than the search could tell, the point between them, where no score sees the sum of the weights.
    """
    image = jnp.asarray(mirror(layout))
    down = ended.vector[layout.of("weight")[:: layout.features]].sum() < 0
    turned = jnp.where(down, image, jnp.eye(len(image)))
    vector, gradient = turned @ ended.vector, turned @ ended.found.gradient
    hessian = turned @ ended.found.hessian @ turned.T
    apart = image @ vector - vector
    between = -apart @ hessian @ apart <= tolerance
    vector = jnp.where(between, vector + apart / 2, vector)
    fixed = held(vector, gradient, box)
    outer = outer_product(layout, vector, rows)
    seen = scaled_eigen(outer, fixed)
    flat = seen.values < FLAT
    known = jnp.where(fixed[:, None] | flat[None], 0, seen.vectors / seen.scale[:, None])
    inside = -known.T @ hessian @ known
    gone = jnp.abs(known).sum(0) == 0
    values, vectors = jnp.linalg.eigh(inside + jnp.diag(gone.astype(inside.dtype)))
    root = known @ vectors
    covariance = (root * jnp.where(values > 0, 1 / values, 0)[None]) @ root.T
    sandwich = covariance @ outer @ covariance
    loose = jnp.where(flat[None], seen.vectors**2, 0).sum(1) > 1e-8

    turn = layout.change_of_units(units)
    back = layout.change_of_units(inverse_units(units))
    own = scaled_eigen(back.T @ outer @ back, fixed)
    touched = (jnp.abs(turn) @ loose.astype(turn.dtype)) > 0

    def outside(matrix):
        matrix = turn @ matrix @ turn.T
        diagonal = jnp.where(touched, jnp.inf, jnp.diag(matrix))
        diagonal = jnp.where(fixed, jnp.nan, diagonal)
        return jnp.where(jnp.eye(len(turn), dtype=bool), diagonal[None], matrix)

    status = jnp.where(fixed.any(), MixtureStatus.AT_BOUND, MixtureStatus.CONVERGED)
    status = jnp.where(flat.any(), MixtureStatus.FLAT, status)
    status = jnp.where(values[0] <= 0, MixtureStatus.NOT_MAXIMUM, status)
    good = (ended.decrement <= tolerance) & jnp.isfinite(ended.found.log_likelihood)
    status = jnp.where(good, status, MixtureStatus.STEP_LIMIT)
    vector = layout.in_units(vector, units)
    return (
        (to_mixture(layout, vector), vector),
        status.astype(jnp.int32),
        ended.decrement,
        -back.T @ hessian @ back,
        outside(covariance),
        outside(sandwich),
        own.values,
        own.vectors,
        fixed,
    )
