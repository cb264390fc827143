"""The price of every expert, revealed by choices alone.

A router that takes the top-K of `score + b` reveals b: i chosen and j not says `b_i - b_j >= score_j -
score_i`. The tightest of these over tokens (`mfgjax.trace.choice_bound`), closed by shortest paths,
are the exact interval of each difference. No model, no distribution, no stored bias. The
width of the intervals falls like 1/tokens. The price is minus the bias.

The tightest bound that follows from all is the longest path from i to j, found by Floyd and Warshall's recursion

    bound_ij <- max(bound_ij, bound_ik + bound_kj),   k = 1..M,

and a positive cycle proves that no b keeps every constraint (Cormen et al., Introduction to Algorithms,
24.4 and 25.2). Every sum is rounded down, so what comes out is true in float32 too.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.sparse.csgraph import connected_components

from mfgjax.numerics.roots import narrow_on_host
from mfgjax.trace.choice_bound import SelectionRule

_RELAXATIONS = 24
"""Halvings of the least relaxation that ends a conflict."""


@dataclasses.dataclass(frozen=True)
class RevealedPrice:
    """What choices say of the selection bias of each layer, in units of the score.

    Attributes:
        bias: point estimate, centred over the experts of `two_sided`; it keeps every bound (in a layer
            with a conflict: the relaxed ones). NaN for other experts.
        half_width: most that an entry of `bias` can be off, shared shift aside. NaN as above, and where
            the layer has a conflict.
        difference_low: proven lower bound of every `b_i - b_j`; -inf where nothing bounds it.
        two_sided: experts whose differences are bounded from both sides, the largest such set. An expert
            that no token chose has an upper bound only, one that every token chose a lower one. Where
            each token's choices are of one group, no two groups are compared: this is one group.
        conflict: layers whose choices no bias explains. Their `difference_low` is NaN.
        relaxation: least amount by which every bound must be lowered for a bias to explain all choices,
            to about 1e-6 of it: 0 without a conflict. The size of the noise, or of the misunderstanding.
        seen: layers that have a rule and so a price at all.
        rules: per layer; None where the rule is unknown.
        layers: names.
    """

    bias: Float[np.ndarray, "layer expert"]
    half_width: Float[np.ndarray, "layer expert"]
    difference_low: Float[np.ndarray, "layer expert expert"]
    two_sided: Bool[np.ndarray, "layer expert"]
    conflict: Bool[np.ndarray, " layer"]
    relaxation: Float[np.ndarray, " layer"]
    seen: Bool[np.ndarray, " layer"]
    rules: tuple[SelectionRule | None, ...]
    layers: tuple[str, ...]

    @property
    def price(self) -> Float[np.ndarray, "layer expert"]:
        """Minus the bias: what choosing an expert costs."""
        return -self.bias

    @property
    def difference_high(self) -> Float[np.ndarray, "layer expert expert"]:
        """Proven upper bound of every `b_i - b_j`."""
        return -np.swapaxes(self.difference_low, -1, -2)


def reveal_from_bounds(
    bound: Float[np.ndarray, "layer expert expert"],
    rules: Sequence[SelectionRule | None],
    layers: Sequence[str],
) -> RevealedPrice:
    """The price from lower bounds of every difference, as `choice_bound` gives them.

    The part of the sum's rounding that grows with the bias is taken off here: twice the unit roundoff
    times the largest bias, for which four times the largest entry of the estimate is taken: a bias with
    a larger common offset is not allowed for.
    """
    bound = np.asarray(bound, float)
    seen = np.asarray([rule is not None for rule in rules])
    unit = np.asarray([0.0 if rule is None or rule.function else rule.unit for rule in rules])
    first = _solve(bound)
    spread = np.nan_to_num(np.nanmax(np.abs(first[0]), -1, initial=0, where=~np.isnan(first[0])))
    slack = 2 * unit * 4 * spread
    bias, half, closed, two_sided, conflict, relaxation = _solve(bound - slack[:, None, None])
    two_sided = two_sided & seen[:, None]
    bias = np.where(two_sided, bias, np.nan)
    half = np.where(two_sided & ~conflict[:, None], half, np.nan)
    closed = np.where(conflict[:, None, None], np.nan, closed)
    return RevealedPrice(
        bias,
        half,
        closed,
        two_sided,
        conflict & seen,
        relaxation,
        seen,
        tuple(rules),
        tuple(layers),
    )


def _solve(bound):
    """Point estimate, half widths, closed bounds, two-sided experts, conflict and relaxation."""
    closed = np.asarray(_close(bound))
    conflict = _in_conflict(closed)
    relaxation = np.zeros(len(bound))
    point = closed
    if conflict.any():
        low = np.zeros(len(bound))
        high = np.where(conflict, np.where(np.isfinite(bound), bound, 0).max((-2, -1)), 0)
        ended = lambda by: ~_in_conflict(_close(bound - by[:, None, None]))  # noqa: E731
        # The upper end always ends it: no bound is above 0 at the first.
        _, high = narrow_on_host(ended, low, high, _RELAXATIONS)
        relaxation = np.where(conflict, high, 0)
        point = np.asarray(_close(bound - relaxation[:, None, None]))
    two_sided = np.stack([_largest_component(layer) for layer in point])
    both = two_sided[:, :, None] & two_sided[:, None, :]
    inner = np.where(both, point, 0)
    count = np.maximum(two_sided.sum(-1, keepdims=True), 1)
    low, high = inner.sum(2) / count, -inner.sum(1) / count
    return (low + high) / 2, (high - low) / 2, closed, two_sided, conflict, relaxation


def _close(bound):
    wide = jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32
    stored = bound.astype(wide)
    stored = np.where(stored > bound, np.nextafter(stored, -np.inf), stored)
    return np.asarray(close_bounds(jnp.asarray(stored, wide)), float)


def _in_conflict(closed):
    return np.diagonal(closed, axis1=-2, axis2=-1).max(-1) > 0


def _largest_component(closed):
    """Experts whose differences are all bounded from both sides: the largest such set."""
    finite = np.isfinite(closed)
    _, label = connected_components(finite & finite.T, directed=False)
    sizes = np.bincount(label)
    largest = label == sizes.argmax()
    return largest if sizes.max() > 1 else np.zeros(len(closed), bool)


@jax.jit
def close_bounds(
    bound: Float[Array, "*batch expert expert"],
) -> Float[Array, "*batch expert expert"]:
    """Tightest lower bounds of every difference. Never raises; not meant to be differentiated.

    M^3 work and M^2 memory per instance; a fixed loop of M steps.

    Args:
        bound: lower bounds of `b_i - b_j`; -inf for none. The diagonal is not read.

    Returns:
        The closed bounds. A diagonal entry above 0 is a proof of a conflict: the constraints exclude
        each other, and the other entries of that instance mean nothing. Without one it is 0.
    """
    experts = bound.shape[-1]
    own = jnp.eye(experts, dtype=bool)
    start = jnp.where(own, 0, bound)
    eps = jnp.finfo(bound.dtype).eps
    most = jnp.finfo(bound.dtype).max / 8  # a conflict grows at each step, and must not reach inf

    def step(k, found):
        through = found[..., :, k, None] + found[..., None, k, :]
        through = through - eps * jnp.abs(through)
        through = jnp.where(jnp.isneginf(through), -jnp.inf, jnp.clip(through, -most, most))
        return jnp.maximum(found, through)

    return jax.lax.fori_loop(0, experts, step, start)


def has_conflict(closed: Float[Array, "*batch expert expert"]):
    """Whether closed bounds exclude each other, `[*batch]` bool."""
    return jnp.diagonal(closed, axis1=-2, axis2=-1).max(-1) > 0
