"""Type qualities, weights and congestion by maximum likelihood, through the equilibrium.

The gradient of the likelihood passes through the coupled equilibrium by its implicit derivative
(`mfgjax.equilibrium`), so nothing is unrolled. The start is k-means with the likeliest congestion,
and L-BFGS only goes up from there: on the fitting tokens the fit is never worse than k-means. Whether
it is better on other tokens is for `mfgjax.token_types.held_out` to say.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize, minimize_scalar

from mfgjax.token_types.kmeans import centred, k_means, nearest_type, one_thread
from mfgjax.token_types.likelihood import TypeModel, token_likelihood, type_loads

SMALLEST_SCALE = 1e-3
"""Logits: floor of the scatter within a type, for an expert whose logit hardly varies."""
LARGEST_CONGESTION = 1e4
"""Upper bound: at 64 experts a load is uniform there to the noise of any trace."""
_ABSENT = -1e9  # logit of the weight of a type that only fills up the shape


@dataclasses.dataclass(frozen=True)
class TypeFit:
    """Types of one layer by both ways, on the host.

    Attributes:
        kmeans: k-means centres, fractions and scatter, with the likeliest congestion.
        fitted: maximum likelihood.
        type_load: of `kmeans` and of `fitted`, `mfgjax.token_types.likelihood.type_loads`.
        log_likelihood: mean per fitting token of `kmeans` and of `fitted`, nats.
        converged: whether L-BFGS met its tolerance.
        steps: L-BFGS steps.
    """

    kmeans: TypeModel
    fitted: TypeModel
    type_load: tuple[np.ndarray, np.ndarray]
    log_likelihood: tuple[float, float]
    converged: bool
    steps: int


def fit_types(
    logits: np.ndarray,
    dispatch: np.ndarray,
    types: int,
    *,
    most_types: int = 0,
    most_tokens: int = 0,
    seed: int = 0,
    max_steps: int = 200,
) -> TypeFit:
    """Fit one layer, from k-means on the same tokens.

    On the host: call it outside jit. Works in float64 whatever the default precision is.

    Args:
        logits: `[token, expert]`, raw or centred.
        dispatch: `[token, expert]`, 1 where the token chose the expert.
        types: number of types; 1 is the single-type game.
        most_types: shape to fill up to, so that fits of fewer types share one compilation.
        most_tokens: the same for tokens.
        seed: of k-means.
        max_steps: of L-BFGS.

    Raises:
        ValueError: fewer tokens than types, or shapes that do not match.
    """
    if np.shape(logits) != np.shape(dispatch) or np.ndim(logits) != 2:
        raise ValueError(
            f"logits {np.shape(logits)}, dispatch {np.shape(dispatch)}: both are [token, expert]"
        )
    if len(logits) < types:
        raise ValueError(f"{len(logits)} tokens cannot hold {types} types; use more texts")
    logits = centred(logits)
    most = max(types, most_types)
    with jax.enable_x64(True), one_thread():
        rows = _filled_rows(logits, np.asarray(dispatch, np.float64), most_tokens)
        start = _start(logits, types, most, seed)

        def evaluate(free: np.ndarray) -> Any:
            return jax.device_get(_loss_and_gradient(free, *rows, most))

        def objective(free: np.ndarray) -> tuple[float, np.ndarray]:
            (loss, _), gradient = evaluate(free)
            return float(loss), gradient

        def along_congestion(log_congestion: float) -> float:
            return objective(np.append(log_congestion, start[1:]))[0]

        span = (0.0, float(np.log1p(LARGEST_CONGESTION)))
        likely: Any = minimize_scalar(along_congestion, bounds=span, method="bounded")
        if likely.fun < along_congestion(0.0):
            start[0] = likely.x
        found = minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[span] + [(None, None)] * (len(start) - 1),
            options={"maxiter": max_steps, "ftol": 1e-9, "gtol": 1e-5, "maxcor": 20},
        )
        (first, first_load), (last, last_load) = (evaluate(free)[0] for free in (start, found.x))
    return TypeFit(
        kmeans=_host_model(start, types, most),
        fitted=_host_model(found.x, types, most),
        type_load=(first_load[:types], last_load[:types]),
        log_likelihood=(-float(first), -float(last)),
        converged=bool(found.success),
        steps=int(found.nit),
    )


# With the loads beside the loss: what else is asked of a fit is then computed without a second program.
@partial(jax.jit, static_argnames="types")
@partial(jax.value_and_grad, has_aux=True)
def _loss_and_gradient(free, logits, dispatch, row_weight, types: int):
    model = _model(free, types)
    load = type_loads(model)
    return -(row_weight * token_likelihood(model, load, logits, dispatch).joint).sum(), load


def _model(free: Any, types: int, xp: Any = jnp) -> TypeModel:
    """Parameters as the optimiser sees them: all of order 1, the first one alone bounded.

    They are log(1 + congestion), which spans decades and reaches 0, the logarithm of the scales,
    the logits of the weights, the qualities. `xp` is numpy on the host, where each operation of
    jax would be a program to compile.
    """
    experts = (free.shape[0] - 1 - types) // (1 + types)
    log_scale, weight_logit = free[1 : 1 + experts], free[1 + experts : 1 + experts + types]
    weight = xp.exp(weight_logit - weight_logit.max())
    return TypeModel(
        quality=free[1 + experts + types :].reshape(types, experts),
        weight=weight / weight.sum(),
        congestion=xp.expm1(free[0]),
        scale=SMALLEST_SCALE + xp.exp(log_scale),
    )


def _start(logits: np.ndarray, types: int, most: int, seed: int) -> np.ndarray:
    """k-means centres, fractions and pooled scatter within clusters, without congestion."""
    means = k_means(logits, types, seed)
    label = nearest_type(means, logits)
    scatter = np.sqrt(((logits - means.cluster_centers_[label]) ** 2).mean(0))
    log_scale = np.log(np.maximum(scatter - SMALLEST_SCALE, SMALLEST_SCALE))
    weight_logit = np.full(most, _ABSENT)
    weight_logit[:types] = np.log(np.bincount(label, minlength=types) / len(logits))
    quality = np.zeros((most, logits.shape[1]))
    quality[:types] = means.cluster_centers_
    return np.concatenate([[0.0], log_scale, weight_logit, quality.ravel()])


def _filled_rows(logits: np.ndarray, dispatch: np.ndarray, most: int):
    """Tokens filled up to `most`, with weights that leave the filling out."""
    filling = max(0, most - len(logits))
    weight = np.pad(np.full(len(logits), 1 / len(logits)), (0, filling))
    filled = [np.pad(rows, ((0, filling), (0, 0))) for rows in (logits, dispatch)]
    return *jax.device_put(filled), jax.device_put(weight)


def _host_model(free: np.ndarray, types: int, most: int) -> TypeModel:
    """Without the types that only fill up the shape."""
    model = _model(free, most, np)
    return TypeModel(model.quality[:types], model.weight[:types], model.congestion, model.scale)
