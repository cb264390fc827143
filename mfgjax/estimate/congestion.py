"""One entry to every objective: `fit_congestion(quality, load, objective=...)`."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.estimate.best_response import fit_best_response
from mfgjax.estimate.fit import CongestionFit
from mfgjax.estimate.likelihood import fit_likelihood

Objective = Literal["l1", "kl"]
OBJECTIVES: tuple[Objective, ...] = ("l1", "kl")


def fit_congestion(
    quality: Float[Array, "*batch expert"],
    load: Float[Array, "*batch expert"],
    objective: Objective = "l1",
    temperature: float | Float[Array, "*batch"] = 1.0,
    dispatches: float | Float[Array, "*batch"] = float("nan"),
) -> CongestionFit:
    """Effective congestion of each instance of a batch. Jit-ready; `objective` is static.

    Args:
        quality: expert qualities; only differences between experts matter.
        load: dispatch fractions, summing to 1 over experts (counts divided by tokens and top_k).
        objective: `"l1"`: Definition 3.1 of arXiv 2604.04230, congestion >= 0, found globally.
            `"kl"`: signed maximum likelihood, convex, differentiable in every array.
        temperature: of the softmax (the paper fixes 1). Traced; a scalar or one per instance.
        dispatches: independent draws behind each load, for the standard error of `"kl"`.

    Returns:
        A `CongestionFit` with the batch shape of `quality`.

    Raises:
        ValueError: on shapes or an objective that do not fit; values never raise, read `status`.
    """
    quality, load = jnp.asarray(quality), jnp.asarray(load)
    if quality.shape != load.shape or quality.ndim == 0 or quality.shape[-1] < 2:
        raise ValueError(
            f"quality {quality.shape} and load {load.shape} must have one shape, experts last and "
            "at least 2 of them; broadcast them first"
        )
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r} is not one of {', '.join(OBJECTIVES)}")
    batch = quality.shape[:-1]
    dtype = jnp.result_type(quality.dtype, load.dtype)
    quality, load = quality.astype(dtype), load.astype(dtype)
    temperature = _per_instance(temperature, batch, dtype)
    dispatches = _per_instance(dispatches, batch, dtype)

    def fit_one(quality, load, temperature, dispatches):
        if objective == "kl":
            return fit_likelihood(quality, load, temperature, dispatches)
        return fit_best_response(quality, load, temperature)

    fit = fit_one
    for _ in batch:
        fit = jax.vmap(fit)
    return fit(quality, load, temperature, dispatches)


def _per_instance(value, batch, dtype):
    value = jnp.asarray(value, dtype)
    if value.ndim == 0:
        return jnp.full(batch, value)
    if value.shape != batch:
        raise ValueError(f"one value per instance has shape {batch}, got {value.shape}")
    return value
