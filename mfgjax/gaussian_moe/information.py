"""How much an observation says of each parameter, and how many it takes to see a temperature.

The exact Fisher information of the model at given x: the expectation over y of score times score, expert by
expert by the trapezoidal rule, which converges faster than any power for these integrands.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from mfgjax.gaussian_moe.gates import find_gate
from mfgjax.gaussian_moe.layout import AnyArray, Layout
from mfgjax.gaussian_moe.model import Mixture, layout_of, to_vector
from mfgjax.gaussian_moe.scores import evaluate, local_gradient, sum_matrix

_REACH, _NODES = 9.0, 181  # a tenth of a standard deviation apart


def fisher_information(
    mixture: Mixture, x: Float[AnyArray, "row feature"], *, raw: bool = False
) -> Float[Array, "parameter parameter"]:
    """Information per observation, averaged over `x`. Float64, on the host.

    Args:
        mixture: one.
        x: where observations are made; evenly spaced points for a density on an interval.
        raw: in all weights, the log temperature and the offsets, with what the gate does not identify:
            the matrix is then singular, and shows along which direction.

    Returns:
        In the order of `layout_of(mixture, raw=raw).names`. Its inverse over n is the Cramer-Rao bound
        of n observations.
    """
    with jax.enable_x64(True):
        layout = layout_of(mixture, raw=raw)
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), mixture)
        points = jnp.asarray(x, float)
        inputs = jnp.concatenate([points.T, jnp.ones((1, len(points)))])
        return _information(layout, to_vector(layout, wide), inputs)


@partial(jax.jit, static_argnames="layout")
def _information(layout: Layout, vector: Array, x: Array) -> Array:
    piece = layout.unpack(vector)
    mean = piece.slope @ x[:-1] + piece.intercept[:, None]
    spread = jnp.exp(piece.log_variance / 2)
    node = jnp.linspace(-_REACH, _REACH, _NODES)
    mass = jnp.exp(-0.5 * node**2) / jnp.exp(-0.5 * node**2).sum()

    def add(total, pair):
        expert, number = pair
        y = mean[expert] + spread[expert] * node[number]
        at = evaluate(layout, vector, x, y)
        local = local_gradient(layout, at)
        weight = at.gate[expert] * mass[number] / x.shape[1]
        return total + sum_matrix(layout, local[None] * local[:, None], x, weight), None

    size = layout.parameters
    pairs = jnp.meshgrid(jnp.arange(layout.experts), jnp.arange(_NODES), indexing="ij")
    zero = jnp.zeros((size, size), x.dtype)
    return lax.scan(add, zero, tuple(p.reshape(-1) for p in pairs))[0]


def samples_for_temperature(
    mixture: Mixture, x: Float[AnyArray, "row feature"], precision: float = 0.1
) -> float:
    """Observations at which the Cramer-Rao bound of the temperature is `precision` of it.

    Infinite where nothing identifies it: a homogeneous gate (linear, ReLU, powers), one expert, or an
    information that is singular at this mixture.
    """
    layout = layout_of(mixture)
    if find_gate(mixture.gate).degree is not None or layout.experts == 1:
        return float("inf")
    matrix = np.asarray(fisher_information(mixture, x))
    scale = np.sqrt(np.diag(matrix))
    if not (scale > 0).all():
        return float("inf")
    values, vectors = np.linalg.eigh(matrix / scale / scale[:, None])
    place = layout.of("log temperature")[0]
    load = vectors[place] ** 2
    null = values < 1e-12
    if load[null].sum() > 1e-8:
        return float("inf")
    bound = (load[~null] / values[~null]).sum() / matrix[place, place]
    return float(bound / precision**2)
