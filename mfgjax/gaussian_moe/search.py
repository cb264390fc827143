"""The highest maximum that starts find, and how near the next one comes: many data sets on the device.

Data sets are taken a few at a time and each start stops by itself: lanes in lock step would all take as many
steps as the slowest.

Gates that are not homogeneous have maxima with nearly one density at very different temperatures, of which a
few starts may miss the higher one. From the best, the search therefore goes on at half to twice its
temperature: first with the temperature held, which gives the profile likelihood there, then free, which
gives the maximum nearby.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from mfgjax.gaussian_moe.expectation import climb, imitate, start, thin
from mfgjax.gaussian_moe.layout import Layout
from mfgjax.gaussian_moe.observations import in_blocks
from mfgjax.gaussian_moe.polish import Polished, polish
from mfgjax.gaussian_moe.scores import Rows

_FEW = 4096
"""Observations that find the basin: of expectation-maximisation, and of Newton before it sees all."""
_NEAR = 1e-2
"""Decrement, of the few, at which all take over: their maxima are a standard error apart anyway."""
_SAME = 1e-3
"""Nats within which two starts count as one maximum."""
RATIOS = (0.5, 0.7, 1.4, 2.0)
"""Of the other temperatures to that of the best."""


class Bounds(NamedTuple):
    """The compact set and when to stop, as `fit_mixture` has them."""

    gate_bound: Array
    variance_floor: Array
    temperature_range: Array
    tolerance: Array
    max_steps: Array

    def box(self, layout: Layout) -> tuple[Array, Array]:
        """Lowest and highest value of each parameter."""
        size = jnp.full(layout.parameters, jnp.inf, self.tolerance.dtype)
        gates = np.concatenate([layout.of("weight"), layout.of("offset")])
        heat = layout.of("log temperature")
        high = size.at[gates].set(self.gate_bound)
        high = high.at[heat].set(jnp.log(self.temperature_range[1]))
        low = (-high).at[layout.of("log variance")].set(jnp.log(self.variance_floor))
        return low.at[heat].set(jnp.log(self.temperature_range[0])), high


class Found(NamedTuple):
    """Of each data set.

    Attributes:
        best: where the highest of all searches ended.
        level: log-likelihood that each start reached.
        agreeing: starts that reached the best.
        gap: nats from the best to the next lower maximum.
        profile: log-likelihood at the other temperatures, where there is one.
    """

    best: Polished
    level: Float[Array, "set start"]
    agreeing: Int[Array, " set"]
    gap: Float[Array, " set"]
    profile: Float[Array, "set ratio"]


def find_maxima(
    layout: Layout,
    rows: Rows,
    count: Int[Array, ""],
    key: Array,
    first: Float[Array, "set parameter"] | None,
    bounds: Bounds,
    starts: int,
    lanes: int,
) -> Found:
    """From `starts` random starts, and `first` if given, which is the last one."""
    sets = rows.y.shape[0]
    box = bounds.box(layout)
    every = starts + (first is not None)
    keys = jax.random.split(key, (sets, starts)) if starts else None

    def data(at):
        mine = jax.tree.map(lambda leaf: leaf[at], rows)
        whole = mine.x.swapaxes(0, 1).reshape(layout.features + 1, -1)
        return mine, *thin(whole, mine.y.reshape(-1), count, _FEW)

    def searched(vector, mine, x, y, weight, box):
        vector = climb(layout, vector, x, y, weight, box)
        if mine.y.size > _FEW:
            near = in_blocks(x, y, weight, mine.y.shape[-1])
            vector = polish(layout, vector, near, box, _NEAR, bounds.max_steps).vector
        return polish(layout, vector, mine, box, bounds.tolerance, bounds.max_steps)

    def one(lane):
        number, at = lane % every, lane // every
        mine, x, y, weight = data(at)
        given = jnp.zeros(layout.parameters, y.dtype) if first is None else first[at]
        if keys is None:
            return searched(given, mine, x, y, weight, box)
        random = keys[at, jnp.minimum(number, starts - 1)]
        vector = start(layout, random, number, x, y, weight, box)
        return searched(jnp.where(number == starts, given, vector), mine, x, y, weight, box)

    def by_set(tried):
        return jax.tree.map(lambda leaf: leaf.reshape(sets, -1, *leaf.shape[1:]), tried)

    tried = by_set(in_lanes(one, sets * every, lanes))
    level = _level(tried)
    best = _highest(tried)
    profile = level[:, :0]
    if layout.free_temperature:
        (place,) = layout.of("log temperature")
        wanted = best.vector[:, place, None] + jnp.log(jnp.asarray(RATIOS))[None]
        heats = jnp.clip(wanted, box[0][place], box[1][place])
        more = jax.random.split(jax.random.fold_in(key, 1), (sets, len(RATIOS)))

        def other(lane):
            number, at = lane % len(RATIOS), lane // len(RATIOS)
            mine, x, y, weight = data(at)
            low, high = (end.at[place].set(heats[at, number]) for end in box)
            vector = imitate(layout, more[at, number], best.vector[at], x, y, weight, (low, high))
            there = searched(vector, mine, x, y, weight, (low, high))
            vector = there.vector
            return there, polish(layout, vector, mine, box, bounds.tolerance, bounds.max_steps)

        held, freed = by_set(in_lanes(other, sets * len(RATIOS), lanes))
        profile = jnp.where(wanted == heats, _level(held), -jnp.inf)
        tried = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), tried, freed)
        best = _highest(tried)
    top = best.found.log_likelihood[:, None]
    agreeing = jnp.maximum((level >= top - _SAME).sum(1), 1)
    lower = (_level(tried) < top - _SAME) & (tried.decrement <= bounds.tolerance)
    gap = jnp.where(lower, top - _level(tried), jnp.inf).min(1)
    return Found(best, level, agreeing, gap, profile)


def _level(tried: Polished) -> Array:
    level = tried.found.log_likelihood
    return jnp.where(jnp.isfinite(level), level, -jnp.inf)


def _highest(tried: Polished) -> Polished:
    """Of each data set."""
    best = _level(tried).argmax(1)
    return jax.tree.map(lambda leaf: jax.vmap(lambda a, i: a[i])(leaf, best), tried)


def in_lanes(function, count: int, lanes: int):
    """`function` of 0 to `count - 1`, `lanes` at a time; the last ones are filled up, not compiled again."""
    lanes = min(lanes, count)
    blocks = -(-count // lanes)
    number = jnp.minimum(jnp.arange(blocks * lanes), count - 1).reshape(blocks, lanes)
    found = lax.map(jax.vmap(function), number)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], found)
