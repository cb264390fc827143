"""Maximum likelihood of mixtures for many data sets at once: starts, a basin, Newton, certificates.

Every data set is fitted from several starts on the device. The maximum is over a
compact set: gate weights and offsets within `gate_bound` (in logits per standard deviation of x),
variances above a floor, temperatures in a range; without it the likelihood of a mixture has no maximum.
What touches the bounds is reported.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfgjax.gaussian_moe.certify import certify
from mfgjax.gaussian_moe.gates import find_gate
from mfgjax.gaussian_moe.layout import AnyArray, Layout, Units, inverse_units
from mfgjax.gaussian_moe.model import Mixture, to_vector
from mfgjax.gaussian_moe.observations import refuse, rows_of, units_of
from mfgjax.gaussian_moe.result import MixtureFit, MixtureStatus
from mfgjax.gaussian_moe.search import RATIOS, Bounds, find_maxima, in_lanes

_RIVAL = 1.92
"""Half the 95% point of chi-squared with one degree of freedom."""


_FIELDS = tuple(MixtureFit.__dataclass_fields__)[:-2]


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
    max_steps: int = 100,
) -> MixtureFit:
    """Fit every data set of a batch. Works in float64 whatever the default precision is.

    Called on the host; shapes, `experts`, `gate` and `starts` are static, the rest is traced.
    Numbers of rows are filled up to a multiple of a block, so that near ones share a compilation.
    Values never raise: read `status`, or call `check_mixture_fit`. Carries no derivative.

    Args:
        x, y: observations.
        experts: of every mixture.
        gate: name of the activation, one of `GATES`.
        starts: random ones, beside `initial`. Two or more must agree for `CONVERGED`.
        initial: one more start per data set (batch axes as the data's, or none).
        seed: of the starts.
        gate_bound: largest weight, in logits per standard deviation of x, and largest offset, in logits
            at the mean of x. Under other gates than linear: per root mean square of x, and at x = 0.
        variance_floor: smallest variance, as a share of the variance of y.
        temperature_range: of gates that have one.
        tolerance: of the decrement: 1e-4 is a hundredth of a standard error.
        max_steps: of Newton.

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
    lanes = len(flat_y) * (starts + (initial is not None))
    if jax.default_backend() == "cpu":  # so many that their data fit in the cache
        lanes = max(1, 2048 // count)
    with jax.enable_x64(True):
        units = units_of(flat_x, flat_y, layout)
        rows = rows_of(flat_x, flat_y, units)
        floats = gate_bound, variance_floor, temperature_range, tolerance
        numbers: Any = *(np.asarray(one, float) for one in floats), max_steps
        bounds = Bounds(*numbers)
        first = None
        if initial is not None:
            first = _vectors(layout, initial, units, len(flat_y), batch)
        key = jax.random.key(seed)
        whole = (layout, rows, count, units, key, first, bounds, starts, lanes)
        if bad.all():  # nothing to compile for
            shapes = jax.eval_shape(partial(_fit, layout, starts=starts, lanes=lanes), *whole[1:-2])
            found = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        else:
            found = _fit(*whole)

    def shown(leaf):
        leaf = np.asarray(leaf)
        if leaf.dtype.kind == "f":
            leaf = np.where(bad.reshape(-1, *[1] * (leaf.ndim - 1)), np.nan, leaf)
        return leaf.reshape((*batch, *leaf.shape[1:]))

    mixture, vector, level, status, *rest = found
    status = np.where(bad, refused, status).astype(status.dtype)
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


@partial(jax.jit, static_argnames=("layout", "starts", "lanes"))
def _fit(layout, rows, count, units, key, first, bounds, starts, lanes):
    """The fields of `MixtureFit` in order, by data set."""
    box = bounds.box(layout)
    found = find_maxima(layout, rows, count, key, first, bounds, starts, lanes)

    def certified(at):
        mine, unit, ended = jax.tree.map(lambda leaf: leaf[at], (rows, units, found.best))
        return certify(layout, mine, unit, ended, box, bounds.tolerance)

    estimate, status, *evidence = in_lanes(certified, rows.y.shape[0], lanes)
    top, gap = found.best.found.log_likelihood, found.gap
    if layout.free_temperature:
        (place,) = layout.of("log temperature")
        error = jnp.sqrt(evidence[2][:, place, place])[:, None]
        outside = jnp.abs(jnp.log(jnp.asarray(RATIOS)))[None] > 1.96 * error
        elsewhere = jnp.where(outside, top[:, None] - found.profile, jnp.inf)
        gap = jnp.minimum(gap, jnp.maximum(elsewhere, 0).min(1))
    fine = status == MixtureStatus.CONVERGED
    status = jnp.where(
        fine & (found.agreeing < 2) & (layout.experts > 1), MixtureStatus.FOUND_ONCE, status
    )
    status = jnp.where(fine & (gap < _RIVAL), MixtureStatus.AMBIGUOUS, status)
    nats = count * jnp.log(units.y_unit)
    level = found.level - nats[:, None]
    steps = found.best.steps
    return *estimate, top - nats, status, *evidence, level, gap, found.agreeing, steps
