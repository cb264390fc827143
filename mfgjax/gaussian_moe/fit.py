"""Maximum likelihood of mixtures for many data sets at once: starts, a basin, Newton, certificates.

Every data set is fitted from several starts on the device. Data sets are taken a few at a time and each
start stops by itself: lanes in lock step would all take as many steps as the slowest. The maximum is over a
compact set: gate weights and offsets within `gate_bound` (in logits per standard deviation of x),
variances above a floor, temperatures in a range; without it the likelihood of a mixture has no maximum.
What touches the bounds is reported.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfgjax.gaussian_moe.expectation import climb, start, thin
from mfgjax.gaussian_moe.gates import find_gate
from mfgjax.gaussian_moe.layout import AnyArray, Layout, Units, inverse_units
from mfgjax.gaussian_moe.model import Mixture, mirror, to_mixture, to_vector
from mfgjax.gaussian_moe.observations import in_blocks, refuse, rows_of, units_of
from mfgjax.gaussian_moe.polish import FLAT, held, polish, scaled_eigen
from mfgjax.gaussian_moe.result import MixtureFit, MixtureStatus
from mfgjax.gaussian_moe.scores import outer_product

_FEW = 4096
"""Observations that find the basin: of expectation-maximisation, and of Newton before it sees all."""
_NEAR = 1e-2
"""Decrement, of the few, at which all take over: their maxima are a standard error apart anyway."""
_SAME = 1e-3
"""Nats within which two starts count as one maximum."""
_RIVAL = 1.92
"""Half the 95% point of chi-squared with one degree of freedom."""


_FIELDS = tuple(MixtureFit.__dataclass_fields__)[:-2]


class _Search(NamedTuple):
    """What is traced of the arguments."""

    gate_bound: Array
    variance_floor: Array
    temperature_range: Array
    tolerance: Array
    em_steps: Array
    max_steps: Array


def fit_mixture(
    x: Float[AnyArray, "*batch row feature"],
    y: Float[AnyArray, "*batch row"],
    experts: int,
    *,
    gate: str = "linear",
    starts: int = 4,
    initial: Mixture | None = None,
    seed: int = 0,
    gate_bound: float = 50.0,
    variance_floor: float = 1e-6,
    temperature_range: tuple[float, float] = (1e-2, 1e2),
    tolerance: float = 1e-4,
    em_steps: int = 20,
    max_steps: int = 100,
    lanes: int | None = None,
) -> MixtureFit:
    """Fit every data set of a batch. Works in float64 whatever the default precision is.

    Called on the host; shapes, `experts`, `gate`, `starts` and `lanes` are static, the rest is traced.
    Numbers of rows are filled up to a multiple of a block, so that near ones share a compilation.
    Values never raise: read `status`, or call `check_mixture_fit`. Carries no derivative.

    Args:
        x, y: observations.
        experts: of every mixture.
        gate: name of the activation, one of `GATES`.
        starts: random ones, beside `initial`.
        initial: one more start per data set (batch axes as the data's, or none).
        seed: of the starts.
        gate_bound: largest weight, in logits per standard deviation of x, and largest offset, in logits
            at the mean of x. Under other gates than linear: per root mean square of x, and at x = 0.
        variance_floor: smallest variance, as a share of the variance of y.
        temperature_range: of gates that have one.
        tolerance: of the decrement: 1e-4 is a hundredth of a standard error.
        em_steps: of expectation-maximisation, before Newton.
        max_steps: of Newton.
        lanes: starts that run in lock step; default so many that their data fit in the cache (all on an
            accelerator).

    Raises:
        ValueError: shapes that do not match, an unknown gate, or bounds that enclose nothing.
    """
    given_x, given_y = np.asarray(x, float), np.asarray(y, float)
    if given_x.ndim < 2 or given_x.shape[:-1] != given_y.shape or experts < 1 or not given_x.size:
        raise ValueError(
            f"x {given_x.shape}, y {given_y.shape}, {experts} experts: x is [*batch, row, feature], y "
            "[*batch, row], neither is empty, and experts is at least 1"
        )
    low, high = temperature_range
    if not (gate_bound > 0 and 0 < variance_floor < 1 and 0 < low < high):
        raise ValueError(
            "the compact set is empty: gate_bound > 0, 0 < variance_floor < 1 and "
            "0 < temperature_range[0] < temperature_range[1] were expected"
        )
    if starts + (initial is not None) < 1:
        raise ValueError("no start: give starts >= 1, or an initial mixture")
    batch, (count, features) = given_y.shape[:-1], given_x.shape[-2:]
    layout = Layout(gate, experts, features)
    find_gate(gate)  # an unknown one is refused here
    flat_x = given_x.reshape(-1, count, features)
    flat_y = given_y.reshape(-1, count)
    refused = refuse(flat_x, flat_y, layout)
    bad = refused != MixtureStatus.CONVERGED
    if bad.any():  # what cannot be fitted must not keep the others waiting
        filler = np.random.default_rng(0)
        flat_x = np.where(bad[:, None, None], filler.standard_normal(flat_x.shape[1:]), flat_x)
        flat_y = np.where(bad[:, None], filler.standard_normal(flat_y.shape[1:]), flat_y)
    if lanes is None:
        every = len(flat_y) * (starts + (initial is not None))
        lanes = max(1, 2048 // count) if jax.default_backend() == "cpu" else every
    with jax.enable_x64(True):
        units = units_of(flat_x, flat_y, layout)
        rows = rows_of(flat_x, flat_y, units)
        search = _Search(
            jnp.asarray(gate_bound, float),
            jnp.asarray(variance_floor, float),
            jnp.asarray(temperature_range, float),
            jnp.asarray(tolerance, float),
            jnp.asarray(em_steps),
            jnp.asarray(max_steps),
        )
        first = None
        if initial is not None:
            first = _vectors(layout, initial, units, len(flat_y), batch)
        key = jax.random.key(seed)
        whole = (layout, rows, jnp.asarray(count), units, key, first, search, starts, lanes)
        if bad.all():  # nothing to compile for
            shapes = jax.eval_shape(partial(_fit, layout, starts=starts, lanes=lanes), *whole[1:-2])
            found = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        else:
            found = _fit(*whole)
        mixture, vector, level, status, *rest = found
        status = jnp.where(jnp.asarray(bad), jnp.asarray(refused, status.dtype), status)

        def shown(leaf):
            blank = leaf
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                mask = jnp.asarray(bad).reshape(-1, *[1] * (leaf.ndim - 1))
                blank = jnp.where(mask, jnp.nan, leaf)
            return np.asarray(
                blank.reshape(*batch, *leaf.shape[1:])
            )  # float64 also where x64 is off

        fields = jax.tree.map(shown, (mixture, vector, level, status, *rest))
    named: Any = dict(zip(_FIELDS, fields, strict=True))
    return MixtureFit(**named, observations=count, layout=layout)


def _vectors(layout: Layout, initial: Mixture, units: Units, sets: int, batch: tuple) -> Array:
    """The given starts, in the units of the fit."""

    def flat(leaf, tail):
        leaf = jnp.asarray(leaf, float)
        whole = jnp.broadcast_to(leaf, (*batch, *leaf.shape[leaf.ndim - tail :]))
        return whole.reshape(sets, *whole.shape[len(batch) :])

    m = initial
    flattened = Mixture(
        flat(m.weight, 2), flat(m.offset, 1), flat(m.temperature, 0),
        flat(m.slope, 2), flat(m.intercept, 1), flat(m.variance, 1), layout.gate_name,
    )  # fmt: skip
    vectors = jax.vmap(partial(to_vector, layout))(flattened)
    return jax.vmap(layout.in_units)(vectors, jax.vmap(inverse_units)(units))


def _box(layout: Layout, search: _Search) -> tuple[Array, Array]:
    size = jnp.full(layout.parameters, jnp.inf, search.tolerance.dtype)
    gates = np.concatenate([layout.of("weight"), layout.of("offset")])
    high = size.at[gates].set(search.gate_bound)
    heat = layout.of("log temperature")
    high = high.at[heat].set(jnp.log(search.temperature_range[1]))
    low = (-high).at[layout.of("log variance")].set(jnp.log(search.variance_floor))
    return low.at[heat].set(jnp.log(search.temperature_range[0])), high


@partial(jax.jit, static_argnames=("layout", "starts", "lanes"))
def _fit(layout, rows, count, units, key, first, search, starts, lanes):
    """The fields of `MixtureFit` in order, by data set."""
    sets = rows.y.shape[0]
    box = _box(layout, search)
    every = starts + (first is not None)
    keys = jax.random.split(key, (sets, starts)) if starts else None

    def one(lane):
        number, at = lane % every, lane // every
        mine = jax.tree.map(lambda leaf: leaf[at], rows)
        x = mine.x.swapaxes(0, 1).reshape(layout.features + 1, -1)
        few = thin(x, mine.y.reshape(-1), count, _FEW)
        if keys is None:
            vector = first[at]
        else:
            random = keys[at, jnp.minimum(number, starts - 1)]
            vector = start(layout, random, number, *few, box, search.em_steps)
            if first is not None:
                vector = jnp.where(number == starts, first[at], vector)
        vector = climb(layout, vector, *few, box, search.em_steps)
        if mine.y.size > _FEW:
            near = in_blocks(*few, mine.y.shape[-1])
            vector = polish(layout, vector, near, box, _NEAR, search.max_steps).vector
        return polish(layout, vector, mine, box, search.tolerance, search.max_steps)

    tried = _in_lanes(one, sets * every, lanes)
    tried = jax.tree.map(lambda leaf: leaf.reshape(sets, every, *leaf.shape[1:]), tried)
    level = tried.found.log_likelihood
    level = jnp.where(jnp.isfinite(level), level, -jnp.inf)
    best = level.argmax(1)
    agreeing = (level >= level.max(1, keepdims=True) - _SAME).sum(1)
    lower = (level < level.max(1, keepdims=True) - _SAME) & (tried.decrement <= search.tolerance)
    gap = jnp.where(lower, level.max(1, keepdims=True) - level, jnp.inf).min(1)
    chosen = jax.tree.map(lambda leaf: jax.vmap(lambda a, i: a[i])(leaf, best), tried)
    levels = level - (count * jnp.log(units.y_unit))[:, None]

    def certify(at):
        mine, unit, ended = jax.tree.map(lambda leaf: leaf[at], (rows, units, chosen))
        return _certify(layout, mine, unit, ended, box, search)

    estimate, status, *certified = _in_lanes(certify, sets, lanes)
    rivalled = (status == MixtureStatus.CONVERGED) & (gap < _RIVAL)
    status = jnp.where(rivalled, MixtureStatus.AMBIGUOUS, status)
    return *estimate, levels.max(1), status, *certified, levels, gap, agreeing, chosen.steps


def _in_lanes(function, count: int, lanes: int):
    """`function` of 0 to `count - 1`, `lanes` at a time; the last ones are filled up, not compiled again."""
    lanes = min(lanes, count)
    blocks = -(-count // lanes)
    number = jnp.minimum(jnp.arange(blocks * lanes), count - 1).reshape(blocks, lanes)
    found = jax.lax.map(jax.vmap(function), number)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], found)


def _certify(layout, rows, units, ended, box, search):
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
    between = -apart @ hessian @ apart <= search.tolerance
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
    good = (ended.decrement <= search.tolerance) & jnp.isfinite(ended.found.log_likelihood)
    status = jnp.where(good, status, MixtureStatus.MAX_STEPS)
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
