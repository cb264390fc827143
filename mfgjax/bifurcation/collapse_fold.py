"""The feedback at which collapse onto one expert becomes possible, for any quality.

In `x = feedback * load` every expert of an equilibrium solves `ln x_i - x_i = quality_i - nu` with one `nu`
for all. For `ln x - x = d < -1` there are two solutions, a light one in (0, 1) and a heavy one above 1 (the
two real branches of Lambert's W, `x = -W(-e^d)`). So the equilibria led by expert `i` are explicit in
`s = x_i > 1`, the others being light (`light_load`):

    feedback_i(s) = s + sum_{j != i} light(quality_j - quality_i + ln s - s).               (1)

Every stable equilibrium has at most one expert above 1, so (1) holds all collapsed states. Its minimum
is the fold where the state led by `i` appears. `d feedback_i / ds = 0` reads

    (s - 1) / s  sum_j x_j / (1 - x_j) = 1.                                               (2)

For the expert of highest quality the left side starts at 0: (2) has no root (the load concentrates
smoothly, without a jump) or two: the fold, and below it in `s` the spinodal, where the balanced state
vanishes. For the others it starts at infinity and there is always a fold. Derived here; for equal
qualities it is the fold of `symmetric_thresholds`.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mfgjax.numerics.roots import bisect, golden_maximum

_GRID = 96
_HALVINGS = 48
_GOLDEN_STEPS = 30
_HALLEY_STEPS = 6


class CollapseFolds(eqx.Module):
    """Where each expert's collapsed state appears, and where balance vanishes.

    Attributes:
        expert: the experts looked at, best quality first.
        fold: for each, the smallest feedback at which a state led by it exists apart from the
            balanced one; infinite where there is none (the best expert when it is too far ahead).
        fold_load: its load there; NaN where there is no fold.
        roots: the number of roots of (2) seen on the grid: 2 (or 0) for the best expert and 1 for
            the others; anything else means that `fold` may not be the only one.
        onset: smallest entry of `fold`: above it the router is bistable and hysteretic.
        leader: the expert whose collapsed state appears at `onset`.
        spinodal: feedback at which the balanced state vanishes and a jump is forced; infinite when
            the load concentrates on the best expert smoothly instead.
    """

    expert: Int[Array, "*batch candidates"]
    fold: Float[Array, "*batch candidates"]
    fold_load: Float[Array, "*batch candidates"]
    roots: Int[Array, "*batch candidates"]
    onset: Float[Array, "*batch"]
    leader: Int[Array, "*batch"]
    spinodal: Float[Array, "*batch"]

    @property
    def smooth(self) -> Bool[Array, "*batch"]:
        """No jump out of balance at any feedback: the best expert takes over gradually."""
        return jnp.isinf(self.spinodal)


def led_feedback(
    lead: Float[Array, ""], expert: Int[Array, ""] | int, quality: Float[Array, " experts"]
) -> Float[Array, ""]:
    """Formula (1): the feedback of the equilibrium in which `feedback * load` of `expert` is `lead`."""
    others = _others(lead, expert, quality)
    return lead + others.sum()


@partial(jax.jit, static_argnames="candidates")
def collapse_folds(quality: Float[Array, " experts"], *, candidates: int = 2) -> CollapseFolds:
    """Folds of the collapsed states, and the first of them.

    Differentiable in `quality` to second order in both modes (`fold`, `onset`, `spinodal`;
    `d onset / d quality_j = x_j / (1 - x_j)` for the others, minus their sum for the leader). At a tie
    the gradient of `onset` is that of the first of the tied experts, and `spinodal` has none (it
    falls as the square root of the lead).

    Args:
        quality: in logits (divided by the temperature), at least two experts.
        candidates: static; how many of the best experts to look at. That 2 is enough is an
            observation, not a theorem: tests compare it with all experts on 40 random games of 8.
            The number of experts looks at all.
    """
    quality = jnp.asarray(quality)
    if quality.shape[-1] < 2:
        raise ValueError(f"collapse needs at least two experts, got {quality.shape[-1]}")
    frozen = lax.stop_gradient(quality)
    experts = jnp.argsort(-frozen)[: max(candidates, 2)]
    low_at, high_at, roots = jax.vmap(lambda i: _fold_positions(i, frozen))(experts)

    def feedback_at(expert, position):
        present = jnp.isfinite(position)
        inner = position > 1.0
        lead = _attach(jnp.where(inner, position, 3.0), expert, quality)
        value = led_feedback(lead, expert, quality)
        # at a tie no derivative exists: a constant, or reverse mode would give 0 * inf
        level = led_feedback(jnp.ones_like(lead), expert, frozen)
        value = jnp.where(inner, value, level)
        load = jnp.where(inner, lead, 1.0) / value
        return jnp.where(present, value, jnp.inf), jnp.where(present, load, jnp.nan)

    who = jnp.concatenate([experts, experts[:1]])
    feedback, load = jax.vmap(feedback_at)(who, jnp.concatenate([high_at, low_at[:1]]))
    fold, load, spinodal = feedback[:-1], load[:-1], feedback[-1]
    first = jnp.argmin(lax.stop_gradient(fold))
    return CollapseFolds(
        expert=experts,
        fold=fold,
        fold_load=load,
        roots=roots,
        onset=fold[first],
        leader=experts[first],
        spinodal=spinodal,
    )


@jax.custom_jvp
def light_load(d: Float[Array, "..."]) -> Float[Array, "..."]:
    """The solution in (0, 1] of `ln x - x = d` for `d <= -1`; NaN above. Elementwise.

    Differentiable to any order in both modes: `dx = x / (1 - x) dd`, infinite at `d = -1`.
    """
    # series at the end of the branch for large x, e^d (1 + e^d) for small x
    root = jnp.sqrt(jnp.maximum(-2.0 * (1.0 + d), 0.0))
    near = 1.0 - root * (1.0 - root / 3.0 + root**2 / 36.0)
    far = jnp.exp(d) * (1.0 + jnp.exp(d))
    x = jnp.where(d > -1.7, near, far)

    def halley(_, x):
        # in the log of x: f = y - e^y - d
        value = jnp.log(x) - x - d
        slope = 1.0 - x
        safe = jnp.where(slope > 0, slope, 1.0)
        step = jnp.where(slope > 0, value / (safe + 0.5 * value * x / safe), 0.0)
        return jnp.minimum(x * jnp.exp(-step), 1.0)

    # a loop, not six copies: this sits inside other loops and compiles often
    x = lax.fori_loop(0, _HALLEY_STEPS, halley, x)
    return jnp.where(d <= -1.0, x, jnp.nan)


@light_load.defjvp
def _light_load_jvp(primals, tangents):
    x = light_load(primals[0])
    return x, x / (1.0 - x) * tangents[0]


def _others(lead, expert, quality):
    d = quality - quality[expert] + jnp.log(lead) - lead
    own = jnp.arange(quality.shape[0]) == expert
    # the expert's own slot gets a harmless argument: `where` alone would leak NaN derivatives
    return jnp.where(own, 0.0, light_load(jnp.where(own, -2.0, d)))


def _excess(lead, expert, quality):
    """Left side of (2) minus 1; infinite where an expert of higher quality would have to lead."""
    x = _others(lead, expert, quality)
    total = jnp.where(x < 1.0, x / (1.0 - x), jnp.inf).sum()
    value = (lead - 1.0) / lead * total - 1.0
    return jnp.where(jnp.isnan(value), jnp.inf, value)


def _fold_positions(expert, quality):
    """Smallest and largest root of (2) in `s`, NaN where absent, and the number seen."""

    def excess(lead):
        return _excess(lead, expert, quality)

    grid = 1.0 + jnp.geomspace(*_reach(expert, quality), _GRID)
    values = jax.vmap(excess)(grid)
    above = values > 0
    rise, fall = ~above[:-1] & above[1:], above[:-1] & ~above[1:]
    low, high, hidden = _brackets(excess, grid, values, rise, fall)
    # (2) rises through its smallest root and falls through its largest
    sign = jnp.asarray([1.0, -1.0], low.dtype)
    roots = bisect(lambda s: sign * jax.vmap(excess)(s) > 0, low, high, _HALVINGS)
    low_at, high_at = jnp.where(jnp.stack([rise.any(), fall.any()]) | hidden, roots, jnp.nan)
    # level with the best expert: balance ends where all that are level stand at 1
    low_at = jnp.where(above[0] & (quality.max() == quality[expert]), 1.0, low_at)
    return low_at, high_at, fall.sum() + rise.sum() + jnp.where(hidden, 2, 0)


def _brackets(excess, grid, values, rise, fall):
    """Ends around the first rise and the last fall, and whether the grid shows neither."""
    first, last = jnp.argmax(rise), _GRID - 2 - jnp.argmax(fall[::-1])
    # near a cusp both roots hide between two grid points: look for the top of (2) there
    peak = jnp.clip(jnp.argmax(values), 1, _GRID - 2)
    before, after = grid[peak - 1], grid[peak + 1]
    summit = golden_maximum(excess, before, after, _GOLDEN_STEPS)
    hidden = ~(values > 0).any() & (excess(summit) > 0)
    low = jnp.where(hidden, jnp.stack([before, summit]), grid[jnp.stack([first, last])])
    high = jnp.where(hidden, jnp.stack([summit, after]), grid[jnp.stack([first, last]) + 1])
    return low, high, hidden


def _reach(expert, quality):
    """Smallest and largest `s - 1` between which the roots of (2) lie."""
    # at `s` the light ones weigh at most M e^{gap} s e^{-s}: beyond the largest no root
    behind = jnp.maximum(quality.max() - quality[expert], 0.0)
    most = 4.0 + 2.0 * jnp.log(1.0 * quality.shape[0]) + 1.5 * behind
    return 50.0 * jnp.sqrt(jnp.finfo(quality.dtype).eps), most


def _attach(position, expert, quality):
    """Identity in `position`, with its derivative in `quality`: one Newton step on (2)."""
    held = lax.stop_gradient(position)
    slope = jax.grad(_excess)(held, expert, lax.stop_gradient(quality))
    shift = _excess(held, expert, quality) / slope
    return held - (shift - lax.stop_gradient(shift))
