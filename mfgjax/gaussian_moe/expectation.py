"""Starts, and expectation-maximisation from them into a basin.

One step: responsibilities; experts by weighted least squares, exactly; the gate by one Newton step on its
part of the expected log-likelihood. For the linear gate that part is a multinomial logistic likelihood,
whose third derivative along a direction is at most its second times the range r of the change of
logits: a Newton step shortened to `log(1 + r) / r` rises from anywhere (Sun and Tran-Dinh 2019,
"Generalized self-concordant functions", Theorem 3), without a line search. Other gates take the
Fisher scoring step, shortened likewise, which need not rise: the search of `polish.py` decides.

Steps are taken on evenly spaced observations, a few thousand at most: a basin is all that is wanted.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from mfgjax.gaussian_moe.layout import Layout, Pieces
from mfgjax.gaussian_moe.scores import (
    Point,
    evaluate,
    local_gradient,
    sum_matrix,
    sum_vector,
    through_gate,
)

_WIDTH = 0.5
"""Standard deviations within which an anchor draws observations to its expert."""
_GATES_TRIED = 64
_FEWER = 256
"""Observations on which gates climb before the likeliest is chosen."""
_STEPS = 20
_GAIN = 0.1
"""Nats: steps that gain less are left to Newton."""
_RIDGE = 1e-10


def thin(x: Array, y: Array, count: Int[Array, ""], most: int) -> tuple[Array, Array, Array]:
    """At most `most` of the first `count` of observations `[feature, row]`, evenly spaced; and weights."""
    size = min(most, y.shape[0])
    place = jnp.arange(size)
    spaced = (place * count) // size
    index = jnp.where(count > size, spaced, place)
    weight = jnp.where(index < count, 1, 0).astype(y.dtype)
    return x[:, index], y[index], weight


def start(
    layout: Layout,
    key: Array,
    number: Int[Array, ""],
    x: Array,
    y: Array,
    weight: Array,
    box: tuple[Array, Array],
) -> Float[Array, " parameter"]:
    """Experts around random observations: near in x for even numbers, in x and y for odd ones.

    Under other gates than linear the experts are those of a linear gate after expectation-maximisation, and the gate
    is the likeliest of a few random ones: its likelihood has many maxima.
    """
    k, d = layout.experts, layout.features
    pick, draw = jax.random.split(key)
    chance = weight / weight.sum()
    anchor = jax.random.choice(pick, len(y), (k,), replace=False, p=chance)
    far = ((x[:-1, None, :] - x[:-1, anchor, None]) ** 2).sum(0) / d
    aside = (y[None] - y[anchor, None]) ** 2
    far = far + jnp.where(number % 2 == 1, aside, jnp.zeros_like(aside))
    responsibility = jax.nn.softmax(-far / (2 * _WIDTH**2), axis=0)
    experts = _experts(responsibility * weight[None], x, y, jnp.exp(box[0][-1]))
    share = (responsibility * weight[None]).sum(-1) / weight.sum()
    none = jnp.zeros((k, d), y.dtype)
    piece = Pieces(none, jnp.zeros((), y.dtype), jnp.log(share), *experts)
    if layout.relative:
        return layout.pack(piece)
    linear = Layout("linear", k, d)
    inside = jnp.full(linear.parameters, 30.0, y.dtype)
    floor = (-inside).at[-k:].set(box[0][-1])
    reached = climb(linear, linear.pack(piece), x, y, weight, (floor, inside))

    def candidate(key):
        vector = _random_gate(layout, key, linear, reached, x, y, weight, box)
        return vector, (evaluate(layout, vector, x, y).log_density * weight).sum()

    return _likeliest(jax.lax.map(candidate, jax.random.split(draw, _GATES_TRIED)))


def imitate(
    layout: Layout,
    key: Array,
    best: Float[Array, " parameter"],
    x: Array,
    y: Array,
    weight: Array,
    box: tuple[Array, Array],
) -> Float[Array, " parameter"]:
    """The experts of `best` behind the likeliest of a few gates, which climbed inside the box on fewer
    observations still: what comes nearest to `best` where the box holds it off."""
    sample = thin(x, y, weight.sum().astype(int), _FEWER)

    def candidate(key):
        vector = _random_gate(layout, key, layout, best, *sample, box)
        vector = climb(layout, vector, *sample, box)
        return vector, (evaluate(layout, vector, x, y).log_density * weight).sum()

    return _likeliest(jax.lax.map(candidate, jax.random.split(key, _GATES_TRIED)))


def _likeliest(tried):
    vectors, level = tried
    return vectors[jnp.where(jnp.isfinite(level), level, -jnp.inf).argmax()]


def _random_gate(layout, key, known, reached, x, y, weight, box):
    """Experts of `reached`, laid out as `known` says, behind a random gate that points as its own does."""
    k, d = layout.experts, layout.features
    piece = known.unpack(reached)
    share = (evaluate(known, reached, x, y).responsibility * weight[None]).sum(-1) / weight.sum()
    tilt = piece.weight - piece.weight.mean(0)[None]
    tilt = tilt / (jnp.linalg.norm(tilt, axis=-1, keepdims=True) + 1e-6)
    turn, size, sign, warm = jax.random.split(key, 4)
    way = tilt + 0.3 * jax.random.normal(turn, (k, d), y.dtype)
    way = way / (jnp.linalg.norm(way, axis=-1, keepdims=True) + 1e-6)
    length = jnp.exp(jax.random.uniform(size, (k, 1), y.dtype, -0.5, 2.5))
    length = jnp.where(jax.random.bernoulli(sign, 0.5, (k, 1)), length, -length)
    heat = jax.random.uniform(warm, (), y.dtype, -2.5, 0.5)
    none = jnp.zeros(k, y.dtype)
    inside = jnp.clip(layout.pack(Pieces(way * length, heat, none, *piece[3:])), *box)
    at = evaluate(layout, inside, x, y)
    height = layout.gate.value(at.score) / at.temperature
    offset = jnp.log(share + 1e-6) - (height * weight[None]).sum(-1) / weight.sum()
    return jnp.clip(layout.pack(layout.unpack(inside)._replace(offset=offset)), *box)


def climb(
    layout: Layout,
    vector: Float[Array, " parameter"],
    x: Array,
    y: Array,
    weight: Array,
    box: tuple[Array, Array],
) -> Float[Array, " parameter"]:
    """Steps of expectation-maximisation inside the box `(low, high)`, until one gains less than a tenth of
    a nat, or there have been twenty."""

    def unfinished(state):
        _, _, gain, taken = state
        return (gain > _GAIN) & (taken < _STEPS)

    def step(state):
        vector, before, _, taken = state
        moved, level = em_step(layout, vector, x, y, weight, jnp.exp(box[0][-1]))
        return jnp.clip(moved, *box), level, level - before, taken + 1

    first = jnp.clip(vector, *box), jnp.asarray(-jnp.inf, y.dtype), jnp.asarray(jnp.inf, y.dtype), 0
    return lax.while_loop(unfinished, step, first)[0]


def em_step(
    layout: Layout,
    vector: Float[Array, " parameter"],
    x: Float[Array, "feature row"],
    y: Float[Array, " row"],
    weight: Float[Array, " row"],
    floor: float | Float[Array, ""],
) -> tuple[Float[Array, " parameter"], Float[Array, ""]]:
    """One step, and the log-likelihood before it; `floor` is of the variances."""
    at = evaluate(layout, vector, x, y)
    moved = vector + _gate_step(layout, at, x, weight)
    experts = _experts(at.responsibility * weight[None], x, y, floor)
    piece = layout.unpack(moved)
    return layout.pack(Pieces(*piece[:3], *experts)), (at.log_density * weight).sum()


def _experts(mass: Float[Array, "expert row"], x: Array, y: Array, floor: float | Array):
    """Weighted least squares per expert: slopes, intercepts, log variances."""
    gram = (mass[:, None] * x[None]) @ x.T
    ridge = _RIDGE * jnp.trace(gram, axis1=-2, axis2=-1)[:, None, None] + 1e-300
    gram = gram + ridge * jnp.eye(len(x), dtype=x.dtype)[None]
    line = jnp.linalg.solve(gram, (mass @ (x * y[None]).T)[..., None])[..., 0]
    square = (y[None] - line @ x) ** 2
    variance = (mass * square).sum(-1) / jnp.maximum(mass.sum(-1), 1e-300)
    return line[:, :-1], line[:, -1], jnp.log(jnp.maximum(variance, floor))


def _gate_step(layout: Layout, at: Point, x: Array, weight: Array) -> Float[Array, " parameter"]:
    free = layout.parameters - layout.experts * (layout.features + 2)
    still = jnp.zeros(layout.parameters, x.dtype)
    if free == 0:
        return still
    p = at.gate
    eye = jnp.eye(layout.experts, dtype=p.dtype)[:, :, None]
    spread = eye * p[None] - p[None] * p[:, None]
    if layout.relative:
        jacobian = jnp.broadcast_to(eye[:-1], (layout.experts - 1, *p.shape))
        local = spread[:-1, :-1]
    else:
        jacobian = through_gate(layout, at, jnp.broadcast_to(eye, spread.shape))
        half = through_gate(layout, at, spread)
        local = through_gate(layout, at, half.transpose(1, 0, 2))
    gradient = sum_vector(layout, local_gradient(layout, at)[: len(jacobian)], x, weight, free)
    matrix = sum_matrix(layout, local, x, weight, free)
    scale = (
        jnp.diag(matrix) * (0 if layout.relative else 1e-3) + _RIDGE * jnp.trace(matrix) + 1e-300
    )
    move = jnp.linalg.solve(matrix + jnp.diag(scale), gradient)
    by_scalar = jnp.zeros((len(jacobian), len(x)), x.dtype)
    by_scalar = by_scalar.at[layout.scalar[:free], layout.feature[:free]].set(move)
    change = (jacobian * (by_scalar @ x)[:, None]).sum(0)
    reach = jnp.where(weight > 0, jnp.ptp(change, axis=0), 0).max() + 1e-12
    return still.at[:free].set(move * jnp.log1p(reach) / reach)
