"""All equilibria of a game with negative congestion, each with its stability.

With one type and the linear cost, `r = -gamma/lambda > 0` and `v = r mu`, an equilibrium is

    log v_i - v_i = q_i/lambda - nu + log r =: Y_i,      sum_i v_i = r.                       (1)

The left side has two branches, `v < 1` and `v > 1`, so an equilibrium is a set H of experts on the
high branch and a root `nu` of one equation. High loads rise with `nu` and low ones fall, and so do
the sizes of their slopes: over an interval of `nu` the sum (1) and its derivative are enclosed by
their end values. Subdivision on that enclosure finds every root and proves that there is no other.
A stable equilibrium has at most one high expert (two would give the potential two directions of
descent), so small sets H find all stable ones at any M.
"""

import itertools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from mfgjax.equilibrium.mirror import mirror_loads
from mfgjax.equilibrium.scaled import Scaled, response, scale
from mfgjax.game.cost import Linear
from mfgjax.game.game import Game
from mfgjax.game.precision import full_precision
from mfgjax.numerics.roots import narrow_on_host

CELLS = 64  # first subdivision of each curve
DEPTH = 40  # halvings of a cell that is still undecided
NEWTON_STEPS = 60


class Equilibria(eqx.Module):
    """Equilibria found, ordered by potential (the first is preferred); host-side arrays.

    Attributes:
        load: load of each expert at each equilibrium.
        stable: whether small deviations die out under the best-response dynamics `f' = S(f) - f`.
        margin: `1 - max Re eig(dS/df)`: rate at which they die out; negative where unstable.
        residual: L1 distance of each load from the load of its best response.
        complete: whether it is proved that there is no other equilibrium with at most `high`
            experts above the fold load `1/r`.
        high: the largest number of such experts searched, 0 where only a multistart was made.
    """

    load: Float[np.ndarray, "found experts"]
    stable: Bool[np.ndarray, " found"]
    margin: Float[np.ndarray, " found"]
    residual: Float[np.ndarray, " found"]
    complete: bool
    high: int


@full_precision
def find_equilibria(game: Game, *, high: int | None = None, starts: int = 256) -> Equilibria:
    """Equilibria of one game, any sign of congestion. Host side, float64.

    One type with the linear cost: by enclosure, complete for the sets searched. Other games: mirror
    descent from `starts` random loads, which finds stable ones only and proves nothing
    (`complete=False`).

    Args:
        game: one game, without batch axes.
        high: largest number of experts above the fold load. All stable equilibria have at most 1;
            all equilibria have fewer than `-gamma/lambda`. The number of sets grows like
            `M**high`; the default is every possible one up to 12 experts, 1 beyond.
        starts: starts of the multistart.

    Raises:
        ValueError: for a game with batch axes.
    """
    if game.quality.ndim != (1 if game.weight is None else 2):
        raise ValueError(f"quality has shape {game.quality.shape}: one game at a time")
    if game.weight is not None or not isinstance(game.cost, Linear):
        return _evaluate(game, _multistart(game, starts), complete=False, high=0)
    x = np.asarray(game.quality, np.float64) / float(game.temperature)
    r = -float(game.congestion) / float(game.temperature)
    if r <= 0:
        loads = _multistart(game, 1)
        return _evaluate(game, loads, complete=True, high=0)
    most = min(len(x), max(int(np.ceil(r)) - 1, 0))
    high = min(most, (most if len(x) <= 12 else 1) if high is None else high)
    loads, complete = [], True
    for size in range(high + 1):
        for chosen in itertools.combinations(range(len(x)), size):
            roots, sure = _roots(x, r, np.isin(np.arange(len(x)), chosen))
            loads += roots
            complete &= sure
    return _evaluate(game, _distinct(loads), complete=complete, high=high)


def _roots(x, r, above):
    """Loads of (1) with the experts `above` on the high branch, and whether none can be missing."""
    first = x.max() + np.log(r) + 1  # here the most valued expert is at the fold, v = 1
    # `v` of a high expert is at most r; without one, all is below the fold and v falls like e^-nu.
    last = (x + r)[above].min() if above.any() else first + max(np.log(len(x) / r), 0) + r + 1
    if last <= first:
        return [], True
    edges = first + (last - first) * np.linspace(0, 1, CELLS + 1) ** 2
    cells, found, sure = list(itertools.pairwise(edges)), [], True
    for depth in range(DEPTH):
        undecided = []
        for left, right in cells:
            (up_a, down_a, rise_a, fall_a), (up_b, down_b, rise_b, fall_b) = (
                _sums(x, r, above, nu) for nu in (left, right)
            )
            if up_a + down_b > r or up_b + down_a < r:
                continue
            if rise_b > fall_a or rise_a < fall_b:
                if (up_a + down_a - r) * (up_b + down_b - r) <= 0:
                    found.append(_bisect(x, r, above, left, right))
                continue
            middle = 0.5 * (left + right)
            undecided += [(left, middle), (middle, right)]
        cells = undecided
        if not cells or len(cells) > 64:
            break
        sure = depth < DEPTH - 1
    return found, sure and not cells


def _sums(x, r, above, nu):
    """Total `v` on the high and the low branch, and the sizes of their derivatives in `nu`."""
    v = _branches(x - nu + np.log(r), above)
    with np.errstate(divide="ignore"):
        slope = v / np.abs(v - 1)
    return v[above].sum(), v[~above].sum(), slope[above].sum(), slope[~above].sum()


def _branches(target, above):
    """Roots `v` of `log v - v = target <= -1`, above 1 or below, by Newton's method in `log v`."""
    depth = np.maximum(-1 - target, 0)
    near = np.sqrt(2 * depth)
    w = np.where(above, np.minimum(near, np.log(2 * (1 + depth))), np.maximum(target, -near))
    for _ in range(NEWTON_STEPS):
        slope = 1 - np.exp(w)
        step = np.where(slope == 0, 0, (w - np.exp(w) - target) / np.where(slope == 0, 1, slope))
        w = np.where(above, np.maximum(w - step, 0), np.minimum(w - step, 0))
        if np.abs(step).max() <= 1e-15 * (1 + np.abs(w).max()):
            break
    return np.exp(w)


def _bisect(x, r, above, left, right):
    total = lambda nu: sum(_sums(x, r, above, nu)[:2]) - r  # noqa: E731
    sign = total(left) <= 0
    left, right = narrow_on_host(lambda nu: (total(nu) <= 0) != sign, left, right, 80)
    v = _branches(x - 0.5 * (left + right) + np.log(r), above)
    return v / v.sum()


def _distinct(loads):
    kept = []
    for load in loads:
        if all(np.abs(load - other).sum() > 1e-9 for other in kept):
            kept.append(load)
    return kept


def _multistart(game: Game, starts: int):
    scaled = scale(game, jnp.ones((), bool))
    rows = np.random.default_rng(0).dirichlet(
        np.full(game.experts, 0.2), (starts, scaled.weight.shape[0])
    )
    loads = np.asarray(_descended(scaled, rows.astype(scaled.quality.dtype)), np.float64)
    kept = []
    for load in loads:
        if all(np.abs(load - other).sum() > 1e-5 for other in kept):
            kept.append(load)
    return kept


@jax.jit
def _descended(scaled: Scaled, starts):
    """Loads that mirror descent reaches from each start."""
    tol, limit = jnp.asarray(1e-12, starts.dtype), jnp.asarray(20_000)
    found = jax.vmap(lambda start: mirror_loads(scaled, tol, limit, start)[0])(starts)
    return jnp.einsum("k,nki->ni", scaled.weight, found)


@jax.jit
@partial(jax.vmap, in_axes=(None, 0))
def _measures(scaled: Scaled, load):
    """Best response to a load, its Jacobian, and the potential where each type answers so: equal
    to that of the load at an equilibrium."""
    answer = lambda load: scaled.weight @ response(scaled, load)  # noqa: E731
    rows = response(scaled, load)
    entropy = (rows * (jnp.log(jnp.maximum(rows, 1e-30)) - scaled.quality)).sum(-1)
    potential = scaled.ratio * scaled.cost.integral(scaled.weight @ rows).sum()
    return answer(load), jax.jacfwd(answer)(load), potential + scaled.weight @ entropy


def _evaluate(game: Game, loads, *, complete: bool, high: int) -> Equilibria:
    """Stability, residual and order of the loads found."""
    scaled = scale(game, jnp.ones((), bool))
    load = np.asarray(loads, np.float64).reshape(-1, game.experts)
    # Filled up to one of few lengths: each compiles once.
    full = np.full((max(8, 1 << len(load).bit_length()), game.experts), 1 / game.experts)
    full[: len(load)] = load
    measures = _measures(scaled, full.astype(scaled.quality.dtype))
    answer, jacobian, height = (np.asarray(leaf, np.float64)[: len(load)] for leaf in measures)
    margin = 1 - np.linalg.eigvals(jacobian).real.max(-1, initial=-np.inf)
    residual = np.abs(answer - load).sum(-1)
    order = np.argsort(height, kind="stable")
    return Equilibria(
        load[order], (margin > 0)[order], margin[order], residual[order], bool(complete), high
    )
