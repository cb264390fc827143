"""Solving the K x K systems of a K-type game without cancellation."""

import jax.numpy as jnp
from jaxtyping import Array, Float

UNROLLED = 8  # above this the unrolled program is too long to compile; LAPACK takes over


def eliminate(
    coupling: Float[Array, "types types"],
    row_sum: Float[Array, " types"],
    right: Float[Array, " types"],
) -> Float[Array, " types"]:
    """Solves `(diag(row_sum + sum_l coupling_kl) - coupling) x = right`, its own diagonal left out.

    With `coupling >= 0` and `row_sum > 0` this is a diagonally dominant M-matrix. Elimination that
    carries the row sums (Grassmann, Taksar and Heyman 1985, DOI 10.1287/opre.33.5.1107) then only
    adds positive numbers: weights of very different sizes and nearly equal types cost no accuracy.
    Differentiable; linear in `right`, so it transposes.
    """
    size = row_sum.shape[0]
    if size > UNROLLED:
        off = coupling * (1 - jnp.eye(size, dtype=coupling.dtype))
        return jnp.linalg.solve(jnp.diag(row_sum + off.sum(-1)) - off, right)
    off = [[coupling[i, j] for j in range(size)] for i in range(size)]
    rest = [row_sum[i] for i in range(size)]
    value = [right[i] for i in range(size)]
    diagonal = list(rest)
    for pivot in range(size):
        diagonal[pivot] = sum(off[pivot][pivot + 1 :], rest[pivot])
        for row in range(pivot + 1, size):
            factor = off[row][pivot] / diagonal[pivot]
            for column in range(pivot + 1, size):
                off[row][column] = off[row][column] + factor * off[pivot][column]
            rest[row] = rest[row] + factor * rest[pivot]
            value[row] = value[row] + factor * value[pivot]
    for row in reversed(range(size)):
        for column in range(row + 1, size):
            value[row] = value[row] + off[row][column] * value[column]
        value[row] = value[row] / diagonal[row]
    return jnp.stack(value)
