"""Definition 3.1 of arXiv 2604.04230, solved globally with a certificate.

    argmin_{gamma >= 0} R(gamma),    R(gamma) = sum_i |phi_gamma(load)_i - load_i|

R is not unimodal (Theorem 3.2(i) of the paper does not hold), so a local search can return a wrong
minimum. Write theta for the scaled congestion of `tilt.py`, m and v for the mean and variance of x
under phi_theta. `R = max_S 2 (phi(S) - load(S))` over sets of experts; for a fixed S the second
derivative of `2 phi(S)` is at most 2 v in size, with `|v'| <= v` and `v <= 1/4` (derived: x spans
1). So from any theta, for 0 <= t <= w,

    R(theta + t) >= R + R' t - K t^2 / 2,      K = 2 min(v exp(w), 1/4).                    (1)

The search walks from 0 to the right in the longest steps for which (1) cannot fall below the best
residual known, less `atol`: whatever it has walked past is certified. A good best residual comes
first, from a descent that starts at the convex likelihood fit; when the walk comes down to the best
residual it descends again from there. The walk ends where a monotone bound takes over: for a set S
of least loaded experts phi(S) grows with theta, hence

    R(theta') >= 2 (phi_theta(S) - load(S))   for all theta' >= theta.                      (2)

The state is a few numbers per instance, so a batch runs in lock step without storage.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mfgjax.estimate.fit import CongestionFit, FitStatus
from mfgjax.estimate.likelihood import solve_theta
from mfgjax.estimate.minima import count_minima
from mfgjax.estimate.residual import Point, evaluate
from mfgjax.estimate.tilt import Tilt, make_tilt

FARTHEST = 1e5
"""Theta at which a walk gives up: the residual still falls there, so there is no finite minimiser."""


def fit_best_response(
    quality: Float[Array, " expert *lane"],
    load: Float[Array, " expert *lane"],
    temperature: Float[Array, "*lane"],
    *,
    atol: float | Float[Array, ""] | None = None,
    max_steps: int = 400,
    counting: bool = True,
) -> CongestionFit:
    """Fit instances, experts leading. Never raises on values: read `status`.

    Not differentiable (the minimiser sits on a kink as a rule): no derivative is carried.

    Args:
        quality: expert qualities, any common shift.
        load: dispatch fractions, summing to 1.
        temperature: of the softmax, > 0. Traced.
        atol: accepted gap of the certificate, in units of L1 distance. Traced. Default 1e-9, or
            2e-6 in float32, where it is the rounding floor of the residual.
        max_steps: static bound on evaluations of the residual.
        counting: whether to count local minima on a fixed grid (costs as much as the fit); without
            it `minima` is 1. Static.
    """
    tilt = lax.stop_gradient(make_tilt(quality, load, temperature))
    dtype = tilt.load.dtype
    floor = max(1e-9, 16 * float(jnp.finfo(dtype).eps))
    atol = jnp.asarray(floor if atol is None else atol, dtype)
    likely, *_ = solve_theta(tilt, 64)
    search = _search(tilt, jnp.maximum(likely, 0), atol, max_steps)

    status = jnp.where(search.certified, FitStatus.CONVERGED, FitStatus.MAX_STEPS)
    status = jnp.where(search.best.theta < FARTHEST, status, FitStatus.UNBOUNDED)
    status = jnp.where(tilt.identified, status, FitStatus.UNIDENTIFIED)
    status = jnp.where(tilt.valid, status, FitStatus.BAD_INPUT).astype(jnp.int32)
    known = tilt.valid & tilt.identified
    minima = count_minima(tilt) if counting else known.astype(jnp.int32)
    return CongestionFit(
        congestion=jnp.where(known, search.best.theta * tilt.unit, jnp.nan),
        residual=jnp.where(known, search.best.residual, jnp.nan),
        minima=jnp.where(known, jnp.maximum(minima, 1), 0),
        at_boundary=known & (search.best.theta == 0),
        standard_error=jnp.full(known.shape, jnp.nan, dtype),
        gap=jnp.where(search.certified & known, atol, jnp.nan),
        steps=search.steps,
        status=status,
    )


class _Search(eqx.Module):
    """Lanes of the search. `left` and `right` bracket the descent; a theta of NaN means none yet."""

    theta: Float[Array, "*lane"]
    descending: Bool[Array, "*lane"]
    certified: Bool[Array, "*lane"]
    walk: Point
    best: Point
    left: Point
    right: Point
    stride: Float[Array, "*lane"]
    explored: Float[Array, "*lane"]
    walked: Bool[Array, "*lane"]
    steps: Int[Array, "*lane"]


def _search(
    tilt: Tilt, start: Float[Array, "*lane"], atol: Float[Array, ""], max_steps: int
) -> _Search:
    origin = evaluate(jnp.zeros_like(start), tilt)
    nowhere = _choose(jnp.ones(start.shape, bool), _unknown(origin), origin)
    first = _Search(
        theta=start,
        descending=jnp.ones(start.shape, bool),
        certified=~(tilt.valid & tilt.identified),
        walk=origin,
        best=origin,
        left=nowhere,
        right=nowhere,
        stride=jnp.full(start.shape, 0.06, start.dtype),
        explored=jnp.full(start.shape, -1, start.dtype),
        walked=jnp.zeros(start.shape, bool),
        steps=jnp.zeros(start.shape, jnp.int32),
    )

    def active(search):
        running = ~search.certified & (search.steps < max_steps)
        return running & (search.best.theta < FARTHEST)

    def step(search):
        point = evaluate(search.theta, tilt)
        moved = _advance(search, point, atol)
        running = active(search)
        moved = eqx.tree_at(lambda s: s.steps, moved, search.steps + 1)
        return _choose(running, moved, search)

    return lax.while_loop(lambda search: active(search).any(), step, first)


def _advance(search: _Search, point: Point, atol: Float[Array, ""]) -> _Search:
    """Take in one evaluated point, and say where to evaluate next."""
    descending = search.descending
    best = _choose(point.residual < search.best.residual, point, search.best)

    # Descent: falling points are on the left of the minimum, rising ones on the right.
    falling = point.slope < 0
    left = _choose(descending & falling, point, search.left)
    right = _choose(descending & ~falling, point, search.right)
    target, settled = _descend(left, right, search, best, atol)

    # Walk: a point reached by a walking step is proven up to there.
    walk = _choose(descending, search.walk, point)
    stay = descending & ~settled
    length = _safe_length(walk, best.residual, atol)
    excess = walk.residual - best.residual
    # Down at the best residual and still falling, with the best not just ahead: something lower may
    # lie there, and steps as short as `atol` allows would take for ever to find it. Descend from
    # here, outward from a stride of that size, to the nearest minimum; once for each.
    ahead = best.theta - walk.theta
    arriving = (ahead > 0) & (ahead * jnp.abs(walk.slope) <= 4 * (excess + atol))
    reached = jnp.where(jnp.isnan(right.theta), left.theta, right.theta)
    explored = jnp.where(descending & settled & search.walked, reached, search.explored)
    again = ~descending & (walk.slope < 0) & (excess <= 4 * atol) & ~arriving
    new_low = point.residual < search.best.residual
    again = again & ((walk.theta > explored) | new_low)
    stride = 8 * length
    unknown = _unknown(point)
    return _Search(
        theta=jnp.where(stay, target, walk.theta + jnp.where(again, stride, length)),
        descending=stay | again,
        certified=~stay & ~again & (walk.tail >= best.residual - atol),
        walk=walk,
        best=best,
        left=_choose(again, walk, left),
        right=_choose(again, unknown, right),
        stride=jnp.where(again, 3 * stride, jnp.where(stay, 3, 1) * search.stride),
        explored=explored,
        walked=search.walked | ~stay,
        steps=search.steps,
    )


def _descend(
    left: Point, right: Point, search: _Search, best: Point, atol: Float[Array, ""]
) -> tuple[Float[Array, "*lane"], Bool[Array, "*lane"]]:
    """Next point of the descent, and whether it has settled (a heuristic; the walk certifies)."""
    no_left, no_right = jnp.isnan(left.theta), jnp.isnan(right.theta)
    both = ~no_left & ~no_right
    width = right.theta - left.theta
    turn = left.slope - right.slope
    crossing = (right.residual - left.residual - right.slope * width) / jnp.where(turn < 0, turn, 1)
    # The tangents of a kink cross at it; bisection now and then, for pieces that bend the other way.
    crossing = jnp.where(search.steps % 4 == 3, 0.5 * width, crossing)
    crossing = jnp.clip(crossing, 0.02 * width, 0.98 * width)
    promise = best.residual - (left.residual + left.slope * crossing)
    promise = promise + 0.3 * jnp.maximum(left.variance, right.variance) * width**2
    eps = jnp.finfo(width.dtype).eps
    narrow = width <= 4 * eps * right.theta
    settled = both & ((promise <= atol / 2) | narrow)
    settled = settled | (no_left & (right.theta <= 0)) | (no_right & (left.theta > FARTHEST))
    outward = jnp.where(
        no_right, left.theta + search.stride, jnp.maximum(right.theta - search.stride, 0)
    )
    return jnp.where(both, left.theta + crossing, outward), settled


def _safe_length(
    point: Point, best: Float[Array, "*lane"], atol: Float[Array, ""]
) -> Float[Array, "*lane"]:
    """Longest t for which (1) stays above `best - atol`."""
    room = jnp.maximum(point.residual - best, 0) + atol

    def length(curvature):
        root = jnp.sqrt(point.slope**2 + 2 * curvature * room)
        # The two forms of the root of the quadratic: each is free of cancellation on its side.
        uphill = (root + point.slope) / curvature
        downhill = 2 * room / (root - jnp.where(point.slope > 0, 0, point.slope))
        return jnp.where(point.slope > 0, uphill, downhill)

    tiny = jnp.finfo(point.variance.dtype).tiny
    variance = jnp.maximum(point.variance, jnp.sqrt(tiny))
    window = jnp.maximum(0.5, -0.5 * jnp.log(4 * variance))
    local = 2 * jnp.minimum(variance * jnp.exp(window), 0.25)
    everywhere = jnp.full_like(local, 0.5)
    return jnp.maximum(jnp.minimum(length(local), window), length(everywhere))


def _choose(condition: Bool[Array, "*lane"], yes, no):
    """`jnp.where` on every leaf of a record."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _unknown(like: Point) -> Point:
    return eqx.tree_at(lambda p: p.theta, like, jnp.full_like(like.theta, jnp.nan))
