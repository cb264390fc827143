"""The counterfactual null: the congestion that the same raw logits show without their selection bias.

Every token chooses the top-K of its own logits, and the load is refitted. The joint distribution of the
logits is kept, with everything that experts do together on a token; all that is taken away is what acts
on the choice alone: a selection bias, noise, groups, capacity. For a router that takes the top-K of its
own logits the null equals the estimate exactly, so its excess is 0, whatever balanced it in training:
its congestion is a function of the distribution of its logits and of nothing else.
"""

from collections.abc import Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfgjax.estimate.congestion.fit import Objective, fit_congestion
from mfgjax.estimate.inference.bootstrap import Estimator
from mfgjax.estimate.inference.quality import estimate_load
from mfgjax.estimate.inference.quality_choice import estimate_quality_and_load
from mfgjax.estimate.inference.token_quality import add_fields
from mfgjax.estimate.inference.weights import jackknife_groups, leave_out_weights
from mfgjax.estimate.null.permutation_excess import ExcessCongestion, excess_of_pair, fit_pair
from mfgjax.trace import TextStatistics, TokenTrace, statistics_of


class PlainStatistics(TextStatistics):
    """Per-text sums of one checkpoint with the choices that its logits alone would have made."""

    plain_count: Float[Array, "text layer expert"]


def plain_choices(
    logits: Float[Array, "*batch expert"], choices: Int[Array, "*batch top_k"]
) -> Int[Array, "*batch top_k"]:
    """Top-K of the logits; among equal logits the experts really chosen come first.

    So logits stored in few bits, where neighbours have become equal, give back the choices of a router
    that took its own top-K. Order within a token has no meaning. Not differentiable.

    Args:
        logits: raw router logits.
        choices: experts really chosen.
    """
    experts = logits.shape[-1]
    kept = jax.nn.one_hot(choices, experts, dtype=bool).any(-2)
    index = jnp.broadcast_to(jnp.arange(experts), logits.shape)
    *_, order = jax.lax.sort((-logits, ~kept, index), num_keys=2)
    return order[..., : choices.shape[-1]]


@jax.jit
def with_plain_choices(
    statistics: TextStatistics,
    logits: Float[Array, "token layer expert"],
    choices: Int[Array, "token layer top_k"],
    text: Int[Array, " token"],
) -> PlainStatistics:
    """Add counts of `plain_choices` to sums over the same tokens."""
    plain = plain_choices(logits, choices)
    chosen = jax.nn.one_hot(plain, logits.shape[-1], dtype=statistics.dispatch_count.dtype).sum(-2)
    count = jax.ops.segment_sum(chosen, text, statistics.token_count.shape[0])
    return add_fields(PlainStatistics, statistics, plain_count=count)


def estimate_counterfactual_excess(
    trace: TokenTrace, *, level: float = 0.95, documents: Sequence[int] | None = None
) -> ExcessCongestion:
    """Excess congestion over the counterfactual null, of every layer, with paired intervals.

    No random numbers. The excess is what the selection bias (or whatever else moves the choice) adds to
    the signed congestion. With group-limited choice the null lets every group compete.

    Args:
        trace: with every token's raw logits and choices.
        level: of the intervals, in (0, 1).
        documents: document of each text, where documents were cut into texts: whole documents are
            then left out in turn.

    Raises:
        ValueError: fewer than three texts (or documents).
    """
    group = jackknife_groups(trace.metadata.text_count, documents=documents)
    sums = with_plain_choices(
        statistics_of(trace).statistics,
        jnp.asarray(trace.logits),
        jnp.asarray(trace.choices.astype("int32")),
        jnp.asarray(trace.text),
    )

    own, null = _corrected_pair(sums, jnp.asarray(leave_out_weights(group)))
    return excess_of_pair(own, null, level, tuple(trace.metadata.layers))


@jax.jit
def _corrected_pair(statistics, without):
    return fit_pair(
        statistics, without, lambda weights, sums: estimate_load(weights, sums.plain_count)
    )


@lru_cache
def counterfactual_excess_estimator(objective: Objective = "kl") -> Estimator:
    """For `bootstrap_texts` on `PlainStatistics`: congestion, counterfactual null and their excess.

    Both loads hold the noise of the resampled texts, so most of it cancels in the excess.
    """

    def estimate(statistics, weights):
        quality, load = estimate_quality_and_load(statistics, weights)
        plain = estimate_load(weights, statistics.plain_count)
        fits = [
            fit_congestion(quality, values, objective, count_minima=False).congestion
            for values in (load, plain)
        ]
        return {"congestion": fits[0], "null": fits[1], "excess": fits[0] - fits[1]}

    return estimate
