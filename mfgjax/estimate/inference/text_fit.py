"""Congestion of each layer from per-text sums, with a standard error that needs no model.

The standard error is the delete-a-group jackknife over texts: tokens of one text may depend on each
other, texts may not (Kott 2001, Journal of Official Statistics 17(4)). With g groups left out in turn,

    se^2 = (g-1)/g sum_j (congestion_without_j - mean)^2.                                      (1)

Definition 3.1's minimiser has kinks; where it sits on one for most of the groups, (1) is rough.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.estimate.congestion.fit import Objective, fit_congestion
from mfgjax.estimate.congestion.result import CongestionFit
from mfgjax.estimate.inference.quality_choice import Quality, estimate_quality_and_load
from mfgjax.trace import TextStatistics

GROUPS = 200
"""Most groups that are left out: more texts than that are left out several at a time."""


@partial(jax.jit, static_argnames=("objective", "quality"))
def fit_texts(
    statistics: TextStatistics, objective: Objective = "l1", quality: Quality = "mean"
) -> CongestionFit:
    """Congestion of every layer of one checkpoint.

    Args:
        statistics: per-text sums, no batch axes; texts without tokens are of no consequence.
            With tokens (`TokenStatistics`) for the qualities that need them.
        objective: as in `fit_congestion`. Static.
        quality: as in `estimate_quality_and_load`. Static.

    Returns:
        A `CongestionFit` with batch axis `layer`; `standard_error` is (1), for every objective.

    Raises:
        ValueError: fewer than two texts, which leave nothing to compare.
    """
    texts = statistics.token_count.shape[0]
    if texts < 2:
        raise ValueError("a standard error over texts needs at least 2 texts; this trace has 1")
    everything = jnp.ones((1, texts), statistics.token_count.dtype)
    weights = jnp.concatenate([everything, leave_group_out_weights(texts, everything.dtype)])
    values, load = estimate_quality_and_load(statistics, weights, quality)
    fits = fit_congestion(values, load, objective)
    left_out = fits.congestion[1:]
    groups = left_out.shape[0]
    square = ((left_out - left_out.mean(0, keepdims=True)) ** 2).sum(0)
    whole = jax.tree.map(lambda leaf: leaf[0], fits)
    return dataclasses.replace(whole, standard_error=jnp.sqrt(square * (groups - 1) / groups))


def leave_group_out_weights(
    texts: int, dtype=jnp.float32, groups: int = GROUPS
) -> Float[Array, "group text"]:
    """Row j leaves out group j of the texts; every text is a group if there are no more than `groups`."""
    groups = min(groups, texts)
    group = jnp.arange(texts) % groups
    return 1 - jax.nn.one_hot(group, groups, dtype=dtype).T
