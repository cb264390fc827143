"""Definition 3.1 of arXiv 2604.04230, solved globally.

    argmin_{gamma >= 0} R(gamma),    R(gamma) = sum_i |phi_gamma(load)_i - load_i|

R is not unimodal (Theorem 3.2(i) of the paper does not hold), so a local search can return a wrong
minimum. Write theta for the scaled congestion of `tilt.py`, m and v for the mean and variance of x
under phi_theta. Then `R = max_S 2 (phi(S) - load(S))` over sets of experts, and for a fixed S the
second derivative of `2 phi(S)` is at most 2 v in size, with `|v'| <= v` (derived: x spans 1). Hence
between two evaluated points a < b, with h = b - a, t = theta - a and K = 2 sqrt(v_a v_b) exp(h/2),

    R(theta) >= max(R_a + R'_a t - K t^2/2,  R_b - R'_b (h-t) - K (h-t)^2/2),               (1)

whose minimum is in closed form (the quadratics cross once). Far out, where one expert takes all and
(1) is loose, a second bound holds: log phi_i is concave in theta, so phi_i is at least its smaller
end value, and `R >= 2 sum_i max(min(phi_i(a), phi_i(b)) - load_i, 0)`. The search splits the cell
with the lowest bound, until no bound is lower than the best residual by more than `atol`.

The range ends where a monotone bound takes over: for a set S of the least loaded experts phi(S)
grows with theta, so `R(theta') >= 2 (phi_theta(S) - load(S))` for all theta' >= theta. The upper
end is doubled until that exceeds the best residual; `beyond` points further out only serve to count
the minima that cannot win. `status` is CONVERGED only with both certificates.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mfgjax.estimate.fit import CongestionFit, FitStatus
from mfgjax.estimate.likelihood import solve_theta
from mfgjax.estimate.tilt import Tilt, make_tilt, tilted_response


def fit_best_response(
    quality: Float[Array, " expert"],
    load: Float[Array, " expert"],
    temperature: Float[Array, ""],
    *,
    atol: float | Float[Array, ""] | None = None,
    grid: int = 24,
    beyond: int = 6,
    max_steps: int = 104,
) -> CongestionFit:
    """Fit one instance; batch with `jax.vmap`. Never raises on values: read `status`.

    Not differentiable (the minimiser sits on a kink as a rule): no derivative is carried.

    Args:
        quality: expert qualities, any common shift.
        load: dispatch fractions, summing to 1.
        temperature: of the softmax, > 0. Traced.
        atol: accepted gap of the certificate, in units of L1 distance. Traced. Default 1e-9, or
            2e-6 in float32, where it is the rounding floor of the residual.
        grid: static number of points of the first pass, up to the certified upper end.
        beyond: static number of points past it, each twice as far.
        max_steps: static bound on splits, and with `grid` the storage per instance.
    """
    tilt = lax.stop_gradient(make_tilt(quality, load, temperature))
    dtype = tilt.load.dtype
    floor = max(1e-9, 16 * float(jnp.finfo(dtype).eps))
    atol = jnp.asarray(floor if atol is None else atol, dtype)
    kl_theta, _, _ = solve_theta(tilt, 64)
    start = jnp.maximum(kl_theta, 0)
    top, bounded = _upper_end(tilt, start)
    cells = _first_cells(tilt, start, top, grid, beyond, max_steps)
    cells, steps = _split_until_certified(cells, tilt, atol, max_steps)
    theta, best = _incumbent(cells)
    gap = jnp.maximum(best - cells.bound.min(), 0)

    # Past the upper end the bound is best already, unless it never overtook.
    status = jnp.where(gap <= atol, FitStatus.CONVERGED, FitStatus.MAX_STEPS)
    status = jnp.where(bounded, status, FitStatus.UNBOUNDED)
    status = jnp.where(tilt.identified, status, FitStatus.UNIDENTIFIED)
    status = jnp.where(tilt.valid, status, FitStatus.BAD_INPUT)
    usable = tilt.valid & tilt.identified
    starts_uphill = ((cells.left.theta == 0) & (cells.left.slope >= 0)).any().astype(jnp.int32)
    # Empty slots have slopes of +inf: no valley. On a far plateau the slope is rounding.
    flat = 8 * jnp.finfo(dtype).eps
    valleys = ((cells.left.slope < -flat) & (cells.right.slope >= 0)).sum(dtype=jnp.int32)
    return CongestionFit(
        congestion=jnp.where(usable, theta * tilt.unit, jnp.nan),
        residual=jnp.where(usable, best, jnp.nan),
        minima=jnp.where(usable, jnp.maximum(valleys + starts_uphill, 1), 0),
        at_boundary=usable & (theta == 0),
        standard_error=jnp.full((), jnp.nan, dtype),
        gap=jnp.where(usable, gap, jnp.nan),
        steps=steps,
        status=status,
    )


class _Points(eqx.Module):
    """The residual at some theta, its derivative and the variance v."""

    theta: Float[Array, "*point"]
    residual: Float[Array, "*point"]
    slope: Float[Array, "*point"]
    variance: Float[Array, "*point"]


class _Cells(eqx.Module):
    """Intervals that cover the search range; empty slots have the bound +inf."""

    left: _Points
    right: _Points
    crossing: Float[Array, " cell"]
    bound: Float[Array, " cell"]


def _evaluate(theta: Float[Array, ""], tilt: Tilt) -> tuple[_Points, Float[Array, " expert"]]:
    response = tilted_response(theta, tilt)
    excess = response - tilt.load
    centred = tilt.direction - (response * tilt.direction).sum()
    point = _Points(
        theta=theta,
        residual=jnp.abs(excess).sum(),
        slope=-2 * jnp.where(excess > 0, response * centred, 0).sum(),
        variance=(response * centred**2).sum(),
    )
    return point, response


def _bound(
    left: _Points,
    right: _Points,
    response_left: Float[Array, " expert"],
    response_right: Float[Array, " expert"],
    load: Float[Array, " expert"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Where to split one interval (as a fraction of its width), and its lower bound."""
    width = right.theta - left.theta
    variance = jnp.sqrt(left.variance * right.variance) * jnp.exp(width / 2)
    bend = jnp.minimum(variance, 0.25) * width**2
    rise_left, rise_right = left.slope * width, right.slope * width
    above = right.residual - left.residual - rise_right - bend
    steepening = rise_left - rise_right - 2 * bend
    # Equal slopes and no curvature: one line, any point will do.
    crossing = jnp.where(steepening < 0, above / jnp.where(steepening < 0, steepening, 1), 0.5)
    crossing = jnp.clip(crossing, 0, 1)
    from_left = left.residual + rise_left * crossing - bend * crossing**2
    from_right = right.residual - rise_right * (1 - crossing) - bend * (1 - crossing) ** 2
    smooth = jnp.minimum(left.residual, right.residual)
    smooth = jnp.minimum(smooth, jnp.maximum(from_left, from_right))
    flat = 2 * jnp.maximum(jnp.minimum(response_left, response_right) - load, 0).sum()
    # On a wide cell (1) is too loose to aim by.
    return jnp.where(width > 1, 0.5, crossing), jnp.maximum(smooth, flat)


def _residual(theta: Float[Array, ""], tilt: Tilt) -> Float[Array, ""]:
    return jnp.abs(tilted_response(theta, tilt) - tilt.load).sum()


def _upper_end(tilt: Tilt, start: Float[Array, ""]) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """A theta past which the residual exceeds that at `start` and at 0, and whether it exists."""
    target = jnp.minimum(_residual(start, tilt), _residual(jnp.zeros_like(start), tilt))
    mean = (tilt.load * tilt.direction).sum()
    spread = jnp.sqrt((tilt.load * (tilt.direction - mean) ** 2).sum())
    bottom = tilt.direction.min()
    thresholds = (mean + spread, mean, mean - spread / 2, mean - spread, bottom)

    def bound(theta):
        response = tilted_response(theta, tilt)
        excess = response - tilt.load
        sets = [jnp.where(tilt.direction <= level, excess, 0).sum() for level in thresholds]
        return 2 * jnp.stack(sets).max()

    def short(state):
        _, reach, tries = state
        return (reach < target) & (tries < 20)

    def double(state):
        width, _, tries = state
        return 2 * width, bound(start + 2 * width), tries + 1

    width = jnp.full_like(start, 0.5)
    width, reach, _ = lax.while_loop(short, double, (width, bound(start + width), 0))
    return start + width, reach >= target


def _first_cells(
    tilt: Tilt, start: Float[Array, ""], top: Float[Array, ""], grid: int, beyond: int, extra: int
) -> _Cells:
    # Even spacing on the scale where the residual bends (theta about 1, or the fit itself), then
    # geometric: a far upper end must not thin out the near points.
    scale = 1 + start
    inner = jnp.linspace(0, 1, grid, dtype=top.dtype)
    outer = jnp.exp2(jnp.arange(1, beyond + 1, dtype=top.dtype))
    thetas = jnp.concatenate([scale * jnp.sinh(inner * jnp.arcsinh(top / scale)), top * outer])
    points, responses = jax.vmap(_evaluate, (0, None))(thetas, tilt)
    left = jax.tree.map(lambda leaf: leaf[:-1], points)
    right = jax.tree.map(lambda leaf: leaf[1:], points)
    crossing, bound = jax.vmap(_bound, (0, 0, 0, 0, None))(
        left, right, responses[:-1], responses[1:], tilt.load
    )
    # The monotone bound holds beyond the upper end: these cells are counted, never split.
    bound = jnp.where(left.theta < top, bound, jnp.inf)
    cells = _Cells(left=left, right=right, crossing=crossing, bound=bound)
    return jax.tree.map(lambda leaf: jnp.pad(leaf, (0, extra), constant_values=jnp.inf), cells)


def _split_until_certified(
    cells: _Cells, tilt: Tilt, atol: Float[Array, ""], max_steps: int
) -> tuple[_Cells, Int[Array, ""]]:
    first_free = cells.bound.size - max_steps

    def unfinished(state):
        cells, steps = state
        _, best = _incumbent(cells)
        return (best - cells.bound.min() > atol) & (steps < max_steps)

    def split(state):
        cells, steps = state
        cell, free = cells.bound.argmin(), first_free + steps
        left, right = (
            jax.tree.map(lambda leaf: leaf[cell], side) for side in (cells.left, cells.right)
        )
        # Kept off the ends, so that rounding cannot return an end point for ever.
        fraction = jnp.clip(cells.crossing[cell], 1e-3, 1 - 1e-3)
        middle, response = _evaluate(left.theta + fraction * (right.theta - left.theta), tilt)
        below, above = tilted_response(left.theta, tilt), tilted_response(right.theta, tilt)
        lower = _Cells(left, middle, *_bound(left, middle, below, response, tilt.load))
        upper = _Cells(middle, right, *_bound(middle, right, response, above, tilt.load))

        def place(slots, low, high):
            return slots.at[cell].set(low).at[free].set(high)

        return jax.tree.map(place, cells, lower, upper), steps + 1

    return lax.while_loop(unfinished, split, (cells, jnp.zeros((), jnp.int32)))


def _incumbent(cells: _Cells) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Best evaluated point: the smallest residual, the smallest theta among ties."""
    residual = jnp.stack([cells.left.residual, cells.right.residual])
    best = residual.min()
    theta = jnp.stack([cells.left.theta, cells.right.theta])
    return jnp.where(residual == best, theta, jnp.inf).min(), best
