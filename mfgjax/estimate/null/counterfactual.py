"""The counterfactual null: the congestion that the same raw logits show without their selection bias.

Every token chooses the top-K of its own logits, and the load is refitted. The joint distribution of the
logits is kept, with everything that experts do together on a token; all that is taken away is what acts
on the choice alone: a selection bias, noise, groups, capacity. For a router that takes the top-K of its
own logits the null equals the estimate exactly, so its excess is 0, whatever balanced it in training:
its congestion is a function of the distribution of its logits and of nothing else.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfgjax.estimate.inference.quality import estimate_load
from mfgjax.estimate.inference.token_quality import add_fields
from mfgjax.estimate.inference.weights import jackknife_groups, leave_out_weights
from mfgjax.estimate.null.excess import ExcessCongestion, excess_of_pair, fit_loads
from mfgjax.trace import TokenTrace
from mfgjax.trace.schema import TextStatistics
from mfgjax.trace.statistics import statistics_of


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


def counterfactual_excess(
    trace: TokenTrace, *, documents: Sequence[int] | None = None, level: float = 0.95
) -> ExcessCongestion:
    """Excess over the counterfactual null, of every layer, with paired intervals. No random numbers.

    The excess is what the selection bias (or whatever else moves the choice) adds to the signed
    congestion. With group-limited choice the null lets every group compete.

    Args:
        trace: with every token's raw logits and choices.
        documents: document of each text, where documents were cut into texts: whole documents are
            then left out in turn.
        level: of the intervals, in (0, 1).

    Raises:
        ValueError: fewer than three texts (or documents).
    """
    group = jackknife_groups(trace.metadata.text_count, documents=documents)
    sums = with_plain_choices(
        statistics_of(trace).statistics,
        trace.logits,
        trace.choices.astype("int32"),
        trace.text,
    )
    own, null = jax.device_get(_corrected_pair(sums, leave_out_weights(group)))
    return excess_of_pair("counterfactual", own, null, level, tuple(trace.metadata.layers))


@jax.jit
def _corrected_pair(statistics, without):
    return fit_loads(
        statistics, without, lambda weights, sums: estimate_load(weights, sums.plain_count)
    )
