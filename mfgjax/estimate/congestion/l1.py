"""Definition 3.1 of arXiv 2604.04230, solved globally with a certificate.

    argmin_{gamma >= 0} R(gamma),    R(gamma) = sum_i |phi_gamma(load)_i - load_i|

R is not unimodal (Theorem 3.2(i) of the paper does not hold), so a local search can return a wrong
minimum. Write theta for the scaled congestion of `tilt.py`; d = x - E[x], v and S for the deviation
and variance of x under phi_theta, and the set of experts with phi > load. `R = 2 (phi(S) - load(S))`,
and at any other theta R is at least that of the same S. With S kept (derived, as x spans 1),

    phi(S)' = -E[d; S],   phi(S)'' = E[d^2 - v; S],   |phi(S)''| <= v,
    |phi(S)'''| = |E[d^3 - 3 v d - E d^3; S]| <= v + 1.5 v^1.5,   |v'| <= v,   v <= 1/4.

So at a distance t <= w on either side of theta, with the derivatives at theta,

    R(theta +- t) >= R +- R' t - K t^2 / 2,    V = min(v exp(w), 1/4),                      (1)
    K = min(2 V, 2 w (V + 1.5 V^1.5) - 2 phi(S)'').

Every evaluated point covers an interval in which R is known not to fall below the best residual
found, less `atol`. A descent from the convex likelihood fit brackets a minimum between two tangents, which covers what
lies between and, as both sides rise, a good way beyond. A walk from 0 to the right then closes what
is not covered yet, in the longest steps that (1) allows. Where it comes down to the best residual it
descends to a minimum again. The walk ends where a monotone bound takes over: for a set S of least
loaded experts phi(S) grows with theta, hence

    R(theta') >= 2 (phi_theta(S) - load(S))   for all theta' >= theta.                      (2)

The state is a few numbers per instance, so a batch runs in lock step without storage.
"""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mfgjax.estimate.congestion.minima import count_minima
from mfgjax.estimate.congestion.residual import Point, evaluate
from mfgjax.estimate.congestion.result import CongestionFit
from mfgjax.estimate.congestion.tilt import Tilt, make_tilt
from mfgjax.estimate.congestion.tilt_root import solve_theta
from mfgjax.numerics.compacted_loop import compacted_loop
from mfgjax.numerics.status import Status

# Values of w tried in (1), and infinity: short where R bends little, long where x hardly varies.
_WINDOWS = (1 / 8, 1 / 2, 4.0, 32.0)

MOST_STEPS = 400
"""Evaluations of the residual."""
FARTHEST = 1e5
"""Theta at which a walk gives up: the residual still falls there, so there is no finite minimiser."""


def fit_best_response(
    quality: Float[Array, " expert *lane"],
    load: Float[Array, " expert *lane"],
    temperature: Float[Array, "*lane"],
    *,
    counting: bool = True,
    compact: bool = True,
) -> CongestionFit:
    """Fit instances, experts leading. Never raises on values: read `status`.

    The accepted gap of the certificate is 1e-9 in L1 distance, or 2e-6 in float32, where it is the
    rounding floor of the residual.

    Not differentiable (the minimiser sits on a kink as a rule): no derivative is carried.

    Args:
        quality: expert qualities, any common shift.
        load: dispatch fractions, summing to 1.
        temperature: of the softmax, > 0. Traced.
        counting: whether to count local minima on a fixed grid (costs as much as the fit); without
            it `minima` is 1. Static.
        compact: as in `compacted_loop`. Static.
    """
    tilt = lax.stop_gradient(make_tilt(quality, load, temperature))
    dtype = tilt.load.dtype
    atol = jnp.asarray(max(1e-9, 16 * float(jnp.finfo(dtype).eps)), dtype)
    search = _search(tilt, jnp.maximum(solve_theta(tilt).theta, 0), atol, compact)

    certified = search.theta == jnp.inf
    status = jnp.where(certified, Status.CONVERGED, Status.STEP_LIMIT)
    status = jnp.where(search.best_theta < FARTHEST, status, Status.UNBOUNDED)
    status = jnp.where(tilt.identified, status, Status.UNIDENTIFIED)
    status = jnp.where(tilt.valid, status, Status.BAD_INPUT).astype(jnp.int32)
    known = tilt.valid & tilt.identified
    minima = count_minima(tilt) if counting else known.astype(jnp.int32)
    return CongestionFit(
        congestion=jnp.where(known, search.best_theta * tilt.unit, jnp.nan),
        residual=jnp.where(known, search.best_residual, jnp.nan),
        minima=jnp.where(known, jnp.maximum(minima, 1), 0),
        at_boundary=known & (search.best_theta == 0),
        standard_error=jnp.full(known.shape, jnp.nan, dtype),
        gap=jnp.where(certified & known, atol, jnp.nan),
        steps=search.steps,
        status=status,
    )


class _Search(eqx.Module):
    """Lanes of the search.

    Attributes:
        theta: where to evaluate next; infinity when all is covered.
        descending: in a descent, not in the walk.
        best_theta, best_residual: best point evaluated.
        left, right: bracket of the descent; a theta of NaN means none yet.
        stride: how far the descent moves while it has one side only.
        frontier: everything from 0 to here is covered.
        low, high: an interval ahead of the walk that is covered too.
    """

    theta: Float[Array, "*lane"]
    descending: Bool[Array, "*lane"]
    best_theta: Float[Array, "*lane"]
    best_residual: Float[Array, "*lane"]
    left: Point
    right: Point
    stride: Float[Array, "*lane"]
    frontier: Float[Array, "*lane"]
    low: Float[Array, "*lane"]
    high: Float[Array, "*lane"]
    steps: Int[Array, "*lane"]


def _search(
    tilt: Tilt, start: Float[Array, "*lane"], atol: Float[Array, ""], compact: bool
) -> _Search:
    def full(value):
        return jnp.full_like(start, value)

    nowhere = Point(*[full(jnp.nan)] * 6)
    first = _Search(
        theta=jnp.where(tilt.valid & tilt.identified, start, jnp.inf),
        descending=jnp.ones(start.shape, bool),
        best_theta=full(0),
        best_residual=full(2),  # no L1 distance is larger
        left=nowhere,
        right=nowhere,
        stride=full(0.06),
        frontier=full(0),
        low=full(jnp.inf),
        high=full(jnp.inf),
        steps=jnp.zeros(start.shape, jnp.int32),
    )

    def active(search):
        running = (search.theta < jnp.inf) & (search.steps < MOST_STEPS)
        return running & (search.best_theta < FARTHEST)

    def step(search, tilt):
        to = _advance(search, evaluate(search.theta, tilt), atol)
        # What else there is says where to go on, and a lane at rest does not.
        held = ("theta", "best_theta", "best_residual", "steps")
        answer = _choose(
            active(search), *({n: getattr(at, n) for n in held} for at in (to, search))
        )
        return dataclasses.replace(to, **answer)

    return compacted_loop(step, active, first, tilt, compact=compact)


def _advance(search: _Search, point: Point, atol: Float[Array, ""]) -> _Search:
    """Take in one evaluated point, and say where to evaluate next."""
    descending, falling = search.descending, point.slope < 0
    better = point.residual < search.best_residual
    best = jnp.where(better, point.residual, search.best_residual)

    # Descent: falling points are on the left of the minimum, rising ones on the right.
    left = _choose(descending & falling, point, search.left)
    right = _choose(descending & ~falling, point, search.right)
    settled = _settled(left, right, best, atol)
    stay, fresh = descending & ~settled, descending & settled

    # A settled bracket covers what is in between, and on both sides as far as (1) reaches.
    # A walked point covers some way ahead. No lane needs more than two of the three.
    back = _choose(descending, left, point)
    back_reach = _reach(back, jnp.where(descending, -back.slope, back.slope), best, atol)
    low = jnp.where(jnp.isnan(left.theta), 0, left.theta - back_reach)
    high = right.theta + _reach(right, right.slope, best, atol)
    high = jnp.where(right.tail >= best - atol, jnp.inf, high)
    low, high = jnp.where(fresh, low, search.low), jnp.where(fresh, high, search.high)

    # Down at the best residual and still falling: something lower may lie ahead, and steps as short
    # as `atol` allows would take for ever to find it. Descend from here, outward from a stride of
    # that size, to the nearest minimum.
    ahead = jnp.where(descending, search.frontier, point.theta + back_reach)
    met = (low <= ahead) & (ahead < high)
    again = ~descending & falling & (point.residual - best <= atol) & ~met
    stride = jnp.where(again, 8 * back_reach, search.stride)
    frontier = jnp.where(met, high, ahead)
    ended = ~descending & (point.tail >= best - atol)
    walk = jnp.where(ended, jnp.inf, frontier)
    outward = jnp.where(again, point.theta + stride, walk)
    return _Search(
        theta=jnp.where(stay, _between(left, right, search), outward),
        descending=stay | again,
        best_theta=jnp.where(better, point.theta, search.best_theta),
        best_residual=best,
        left=_choose(again, point, left),
        right=dataclasses.replace(right, theta=jnp.where(again, jnp.nan, right.theta)),
        stride=3 * stride,
        frontier=jnp.where(stay, search.frontier, frontier),
        low=low,
        high=high,
        steps=search.steps + 1,
    )


def _settled(left: Point, right: Point, best, atol) -> Bool[Array, "*lane"]:
    """Whether a bracket is covered, or has nowhere to go."""
    width = right.theta - left.theta
    # Up to where the tangents cross R lies above the left one, beyond above the right one, each less
    # K t^2 / 2 of its own point: so above the crossing, less the larger of these.
    reached = jnp.clip(_crossing(left, right), 0, width)
    growth = jnp.where(width <= 1, 1 + 2 * width, jnp.inf)  # exp(w) is below
    below_left = _curvature(left, width, growth) * reached**2
    below_right = _curvature(right, width, growth) * (width - reached) ** 2
    promise = best - (left.residual + left.slope * reached)
    promise = promise + 0.5 * jnp.maximum(below_left, below_right)
    narrow = width <= 4 * jnp.finfo(width.dtype).eps * right.theta
    # With one side only the width is NaN, and neither holds.
    no_left, no_right = jnp.isnan(left.theta), jnp.isnan(right.theta)
    stuck = (no_left & (right.theta <= 0)) | (no_right & (left.theta > FARTHEST))
    return (promise <= atol) | narrow | stuck


def _between(left: Point, right: Point, search: _Search) -> Float[Array, "*lane"]:
    """Next point of a descent: inside its bracket, or outward while it has one side only."""
    width = right.theta - left.theta
    # Tangents are right for a kink; now and then a secant of slopes, for a smooth minimum.
    turn = left.slope - right.slope
    secant = -left.slope * width / jnp.where(turn < 0, -turn, 1)
    secant = jnp.clip(secant, 0.1 * width, 0.9 * width)
    crossing = jnp.clip(_crossing(left, right), 0.02 * width, 0.98 * width)
    inside = left.theta + jnp.where(search.steps % 3 == 2, secant, crossing)
    beyond = jnp.maximum(right.theta - search.stride, 0)
    only = jnp.where(jnp.isnan(right.theta), left.theta + search.stride, beyond)
    return jnp.where(jnp.isnan(width), only, inside)


def _crossing(left: Point, right: Point) -> Float[Array, "*lane"]:
    """How far right of `left` the two tangents cross."""
    turn = left.slope - right.slope
    rise = right.residual - left.residual - right.slope * (right.theta - left.theta)
    return rise / jnp.where(turn < 0, turn, 1)


def _reach(
    point: Point, slope: Float[Array, "*lane"], best: Float[Array, "*lane"], atol: Float[Array, ""]
) -> Float[Array, "*lane"]:
    """A t up to which (1) stays above `best - atol`, for the slope in that direction.

    Within a window w that is all of w, or up to a root. Wider ones bend more: the longest t is the
    last w that is reached whole, or the root in the one after it.
    """
    room = jnp.maximum(point.residual - best, 0) + atol
    curvature, whole = jnp.full_like(room, 0.5), jnp.zeros_like(room)
    for window in reversed(_WINDOWS):
        bend = _curvature(point, window, math.exp(window))
        passed = room + window * (slope - 0.5 * window * bend) >= 0
        whole = jnp.where(passed, jnp.maximum(whole, window), whole)
        curvature = jnp.where(passed, curvature, bend)
    root = jnp.sqrt(slope**2 + 2 * curvature * room)
    # The two forms of the root of the quadratic: each is free of cancellation on its side.
    rising = slope > 0
    upper = jnp.where(rising, root + slope, 2 * room)
    lower = jnp.where(rising, curvature, root - slope)
    # XLA repeats what is cheap in every kernel that uses it, but not a division: so it comes last.
    return jnp.maximum(upper, whole * lower) / lower


def _curvature(point: Point, window, growth) -> Float[Array, "*lane"]:
    """K of (1) within `window`, given `growth >= exp(window)`; kept positive."""
    largest = jnp.minimum(point.variance * growth, 0.25)
    third = 2 * (largest + 1.5 * largest * jnp.sqrt(largest))
    return jnp.clip(window * third - point.bend, 1e-12, 2 * largest + 1e-12)


def _choose(condition: Bool[Array, "*lane"], yes, no):
    """`jnp.where` on every leaf of a record."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
