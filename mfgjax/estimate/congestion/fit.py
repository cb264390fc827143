"""One entry to every objective: `fit_congestion(quality, load, objective=...)`."""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from mfgjax.estimate.congestion.equilibrium import Distance, fit_equilibrium
from mfgjax.estimate.congestion.kl import fit_likelihood
from mfgjax.estimate.congestion.l1 import fit_best_response
from mfgjax.estimate.congestion.result import CongestionFit
from mfgjax.numerics.filled import filled_up

Objective = Literal["l1", "kl", "equilibrium"]
LANES = {"cpu": 1024}
"""Instances fitted in lock step, by backend: their arrays fill a core's second-level cache."""
MANY_LANES = 2**18
"""On any other backend: enough to keep a GPU busy (reasoned, not measured)."""
FEW = 1024
"""Instances up to which compiling the step of a search twice costs more than it saves."""
OBJECTIVES: tuple[Objective, ...] = ("l1", "kl", "equilibrium")


# Compiled here, because a call outside jit would otherwise compile its loops anew each time.
@partial(jax.jit, static_argnames=("objective", "distance", "count_minima", "expert_axis"))
def fit_congestion(
    quality: Float[Array, "*batch expert"],
    load: Float[Array, "*batch expert"],
    objective: Objective = "l1",
    temperature: float | Float[Array, "*batch"] = 1.0,
    dispatches: float | Float[Array, "*batch"] = float("nan"),
    *,
    distance: Distance = "kl",
    count_minima: bool = True,
    expert_axis: Literal[0, -1] = -1,
) -> CongestionFit:
    """Effective congestion of each instance of a batch. Jit-ready; `objective` is static.

    Args:
        quality: expert qualities; only differences between experts matter.
        load: dispatch fractions, summing to 1 over experts (counts divided by tokens and top_k).
        objective: `"l1"`: Definition 3.1 of arXiv 2604.04230, congestion >= 0, found globally.
            `"kl"`: signed maximum likelihood, convex, differentiable in every array.
            `"equilibrium"`: `distance` of the load from the equilibrium solved at each
            congestion >= 0 (`fit_equilibrium`).
        temperature: of the softmax (the paper fixes 1). Traced; a scalar or one per instance.
        dispatches: independent draws behind each load, for the standard error of `"kl"`.
        distance: of `"equilibrium"`: `"kl"` divergence or `"l1"`; the others ignore it. Static.
        count_minima: whether `"l1"` counts the local minima, which more than doubles its cost;
            without it `minima` is 1. Static.
        expert_axis: where the experts are in `quality` and `load`. Static. 0 saves a transposition
            that takes as long as a `"kl"` fit.

    Returns:
        A `CongestionFit` with the batch shape of `quality`.

    Raises:
        ValueError: on shapes or an objective that do not fit; values never raise, read `status`.
    """
    quality, load = jnp.asarray(quality), jnp.asarray(load)
    if quality.shape != load.shape or quality.ndim == 0 or quality.shape[expert_axis] < 2:
        raise ValueError(
            f"quality {quality.shape} and load {load.shape} must have one shape, experts on axis "
            f"{expert_axis} and at least 2 of them; broadcast them first"
        )
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r} is not one of {', '.join(OBJECTIVES)}")
    experts = quality.shape[expert_axis]
    batch = quality.shape[:-1] if expert_axis == -1 else quality.shape[1:]
    dtype = jnp.result_type(quality.dtype, load.dtype)
    quality, load = quality.astype(dtype), load.astype(dtype)
    temperature = _per_instance(temperature, batch, dtype)
    dispatches = _per_instance(dispatches, batch, dtype)

    def fit(quality, load, temperature, dispatches):
        if objective == "equilibrium":
            solve = partial(fit_equilibrium, distance=distance)
            return jax.vmap(solve, (1, 1, 0))(quality, load, temperature)
        if objective == "kl":
            return fit_likelihood(quality, load, temperature, dispatches)
        return fit_best_response(
            quality, load, temperature, counting=count_minima, compact=total > FEW
        )

    total = math.prod(batch)
    flat = (total, experts) if expert_axis == -1 else (experts, total)
    lanes = (quality.reshape(flat), load.reshape(flat))
    numbers = (temperature.reshape(total), dispatches.reshape(total))
    out = _in_blocks(fit, expert_axis, lanes, numbers)
    return jax.tree.map(lambda leaf: leaf.reshape(batch), out)


def fit_rows(
    quality: Float[np.ndarray, "row expert"],
    load: Float[np.ndarray, "row expert"],
    objective: Objective,
) -> CongestionFit:
    """`fit_congestion` of rows on the host, minima not counted: in and out are arrays of NumPy.

    Filled up to a multiple of `FEW`, so that jobs of different size share one program.
    """
    fit = partial(fit_congestion, objective=objective, count_minima=False)
    return filled_up(fit, FEW, quality, load)


def _in_blocks(fit, expert_axis, lanes, numbers):
    """Run `fit` on a limited number of instances at a time: they stay in cache, and those that take
    many steps hold up only their own block. A result does not depend on the other lanes."""
    total, size = numbers[0].shape[0], LANES.get(jax.default_backend(), MANY_LANES)
    if total <= size:
        return fit(*(leaf.T if expert_axis == -1 else leaf for leaf in lanes), *numbers)
    blocks = -(-total // size)

    def run(number):
        # The last block ends with the last instance: it fits some of the block before again.
        start = jnp.minimum(number * size, total - size)
        rows = [lax.dynamic_slice_in_dim(leaf, start, size, expert_axis + 1) for leaf in lanes]
        rows = [leaf.T if expert_axis == -1 else leaf for leaf in rows]
        return fit(*rows, *(lax.dynamic_slice_in_dim(leaf, start, size) for leaf in numbers))

    out = lax.map(run, jnp.arange(blocks))
    new = total - (blocks - 1) * size
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf[:-1].ravel(), leaf[-1, -new:]]), out)


def _per_instance(value, batch, dtype):
    value = jnp.asarray(value, dtype)
    if value.ndim == 0:
        return jnp.full(batch, value)
    if value.shape != batch:
        raise ValueError(f"one value per instance has shape {batch}, got {value.shape}")
    return value
