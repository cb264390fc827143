"""Log-likelihood, score and Hessian of many observations, in one pass over blocks of them.

With gate logits h_i, gate probabilities p = softmax(h), log densities n_i of the experts and
responsibilities r = softmax(h + n), an observation has

    l = lse(h + n) - lse(h),   dl/dh_i = r_i - p_i,   dl/dn_i = r_i,
    d2l/dh2 = (diag r - r r') - (diag p - p p'),   d2l/dh dn = d2l/dn2 = diag r - r r',

and what is below h (score, temperature, offset) and below n (mean, log variance) follows by the chain
rule, in closed form. Everything has observations as its last axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from mfgjax.gaussian_moe.layout import Layout

_LOG_2PI = float(np.log(2 * np.pi))


class Rows(NamedTuple):
    """Observations in blocks. `x` has the features and a last row of ones; `weight` is 0 for filling."""

    x: Float[Array, "block feature row"]
    y: Float[Array, "block row"]
    weight: Float[Array, "block row"]


class Moments(NamedTuple):
    """Sums over observations, at one vector of parameters."""

    log_likelihood: Float[Array, ""]
    gradient: Float[Array, " parameter"]
    hessian: Float[Array, "parameter parameter"]


class Point(NamedTuple):
    """What the derivatives of some observations are made of, by expert and observation."""

    log_density: Float[Array, " row"]
    gate: Float[Array, "expert row"]
    responsibility: Float[Array, "expert row"]
    score: Float[Array, "expert row"]
    residual: Float[Array, "expert row"]
    precision: Float[Array, "expert 1"]
    temperature: Float[Array, ""]


def evaluate(layout: Layout, vector: Array, x: Array, y: Array) -> Point:
    """At observations `x [feature + 1, row]`, `y [row]`."""
    piece = layout.unpack(vector)
    inputs = x[:-1]
    score = piece.weight @ inputs
    temperature = jnp.exp(piece.log_temperature)
    logit = layout.gate.value(score) / temperature + piece.offset[:, None]
    residual = y[None] - piece.slope @ inputs - piece.intercept[:, None]
    precision = jnp.exp(-piece.log_variance)[:, None]
    expert = -0.5 * (precision * residual**2 + piece.log_variance[:, None] + _LOG_2PI)
    gate, gate_total = _softmax(logit)
    responsibility, total = _softmax(logit + expert)
    return Point(total - gate_total, gate, responsibility, score, residual, precision, temperature)


def _softmax(logit):
    top = logit.max(0)
    power = jnp.exp(logit - top[None])
    total = power.sum(0)
    return power / total[None], top + jnp.log(total)


def through_gate(
    layout: Layout, at: Point, derivative: Float[Array, "expert other row"]
) -> Float[Array, "scalar other row"]:
    """From derivatives in the logits to those in score, log temperature and offset."""
    slope = layout.gate.slope(at.score) / at.temperature
    parts = [slope[:, None] * derivative]
    if layout.free_temperature:
        height = layout.gate.value(at.score) / at.temperature
        parts.append(-(height[:, None] * derivative).sum(0)[None])
    return jnp.concatenate([*parts, derivative[:-1]])


def local_gradient(layout: Layout, at: Point) -> Float[Array, "scalar row"]:
    """Score in the local scalars."""
    r, pull = at.responsibility, at.responsibility - at.gate
    first = at.precision * at.residual
    second = 0.5 * (at.precision * at.residual**2 - 1)
    gate = pull[:-1] if layout.relative else through_gate(layout, at, pull[:, None])[:, 0]
    return jnp.concatenate([gate, r * first, r * second])


def local_hessian(layout: Layout, at: Point) -> Float[Array, "scalar scalar row"]:
    """Hessian in the local scalars."""
    k = layout.experts
    eye = jnp.eye(k, dtype=at.score.dtype)[:, :, None]
    r, p = at.responsibility, at.gate
    first = at.precision * at.residual
    second = 0.5 * (at.precision * at.residual**2 - 1)
    spread = eye * r[None] - r[None] * r[:, None]
    logit = spread - eye * p[None] + p[None] * p[:, None]
    below = jnp.concatenate([first, second])  # d n / d (mean, log variance)
    twice = jnp.concatenate([spread, spread], 1)
    cross = twice * below[None]
    expert = jnp.concatenate([twice, twice]) * below[None] * below[:, None]
    mixed = eye * (r * first)[None]
    bend = jnp.concatenate(
        [
            jnp.concatenate([eye * (r * at.precision)[None], mixed], 1),
            jnp.concatenate([mixed, eye * (r * (second + 0.5))[None]], 1),
        ]
    )
    expert = expert - bend
    if layout.relative:
        gate, cross = logit[:-1, :-1], cross[:-1]
    else:
        gate, cross = _chain(layout, at, logit, cross)
    top = jnp.concatenate([gate, cross], 1)
    bottom = jnp.concatenate([cross.transpose(1, 0, 2), expert], 1)
    return jnp.concatenate([top, bottom])


def _chain(layout: Layout, at: Point, logit, cross):
    """Second derivatives in score, log temperature and offset, and those crossed with the experts'."""
    gate = through_gate(layout, at, through_gate(layout, at, logit).transpose(1, 0, 2))
    pull = at.responsibility - at.gate
    eye = jnp.eye(layout.experts, dtype=at.score.dtype)[:, :, None]
    curved = eye * (pull * layout.gate.curvature(at.score) / at.temperature)[None]
    if layout.free_temperature:
        along = (-pull * layout.gate.slope(at.score) / at.temperature)[:, None]
        last = (pull * layout.gate.value(at.score) / at.temperature).sum(0)[None, None]
        curved = jnp.concatenate(
            [
                jnp.concatenate([curved, along], 1),
                jnp.concatenate([along.transpose(1, 0, 2), last], 1),
            ]
        )
    rest = layout.gate_scalars - len(curved)
    gate = gate + jnp.pad(curved, ((0, rest), (0, rest), (0, 0)))
    return gate, through_gate(layout, at, cross)


def _pairs(layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Products of two features, each once, and where each pair of features finds its own."""
    width = layout.features + 1
    first, second = np.triu_indices(width)
    place = np.zeros((width, width), int)
    place[first, second] = place[second, first] = np.arange(len(first))
    return first, second, place


def sum_matrix(
    layout: Layout, local: Array, x: Array, weight: Array, first_ones: int | None = None
) -> Array:
    """Sum over observations of a local matrix `[scalar, scalar, row]`, in the free parameters.

    The local matrix may end with the scalars of the `first_ones` parameters, if only those are wanted.
    """
    first, second, place = _pairs(layout)
    s, f = layout.scalar[:first_ones], layout.feature[:first_ones]
    products = x[first] * x[second] * weight[None]
    moments = local.reshape(-1, local.shape[-1]) @ products.T
    moments = moments.reshape(*local.shape[:2], len(first))
    return moments[s[:, None], s[None], place[f[:, None], f[None]]]


def sum_vector(
    layout: Layout, local: Array, x: Array, weight: Array, first_ones: int | None = None
) -> Array:
    """Sum over observations of a local vector `[scalar, row]`, in the free parameters."""
    summed = (local * weight[None]) @ x.T
    return summed[layout.scalar[:first_ones], layout.feature[:first_ones]]


def _summed(per_block, rows: Rows, zero):
    def add(total, block):
        return jax.tree.map(jnp.add, total, per_block(*block)), None

    return lax.scan(add, zero, rows)[0]


def moments(layout: Layout, vector: Array, rows: Rows) -> Moments:
    """Log-likelihood in nats, score and Hessian of all observations."""

    def block(x, y, weight):
        at = evaluate(layout, vector, x, y)
        return Moments(
            (at.log_density * weight).sum(),
            sum_vector(layout, local_gradient(layout, at), x, weight),
            sum_matrix(layout, local_hessian(layout, at), x, weight),
        )

    size, dtype = layout.parameters, rows.y.dtype
    zero = Moments(jnp.zeros((), dtype), jnp.zeros(size, dtype), jnp.zeros((size, size), dtype))
    return _summed(block, rows, zero)


def outer_product(layout: Layout, vector: Array, rows: Rows) -> Float[Array, "parameter parameter"]:
    """Sum over observations of score times score, the middle of the sandwich."""

    def block(x, y, weight):
        local = local_gradient(layout, evaluate(layout, vector, x, y))
        return sum_matrix(layout, local[None] * local[:, None], x, weight)

    size = layout.parameters
    return _summed(block, rows, jnp.zeros((size, size), rows.y.dtype))
