"""Does a router use the bias that its checkpoint stores?"""

from enum import StrEnum
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mfgjax.price.bounds import RevealedPrice
from mfgjax.price.scores import ranked_tokens, rounding_slack, shortfall
from mfgjax.trace.choice_bound import SelectionRule
from mfgjax.trace.schema import TokenTrace, TraceError


class Verdict(StrEnum):
    """What choices say of a stored bias."""

    APPLIED = "applied"
    """It keeps every bound, and no bias at all does not."""
    UNDECIDED = "undecided"
    """It keeps every bound, and so does no bias: too few tokens, or too small a bias."""
    NEVER_APPLIED = "never applied"
    """No bias keeps every bound, the stored one does not."""
    ROUNDED = "rounded to bfloat16"
    """Rounded to bfloat16 it keeps every bound, as stored it does not."""
    REVERSED = "subtracted"
    """Its negative keeps every bound."""
    OTHER = "another bias"
    """Choices are those of some other bias: a stale copy, an average, a scaled one."""
    CONFLICT = "no bias explains the choices"
    UNSEEN = "unknown rule"


class StoredBias(NamedTuple):
    """One layer's stored bias beside the revealed one.

    Attributes:
        verdict: a `Verdict`.
        excess: most that a difference of stored biases is outside its interval, in score units; 0 if
            it is inside.
        scale: slope of the revealed bias on the stored one; 1 where it is used as it is.
        share: of tokens whose choice is not the top-K of score + stored bias, rounding allowed for; NaN
            without tokens or a rule.
    """

    verdict: Verdict
    excess: float
    scale: float
    share: float = np.nan


def compare_stored_bias(
    revealed: RevealedPrice,
    stored: Float[np.ndarray, "layer expert"],
    tokens: TokenTrace | None = None,
) -> list[StoredBias]:
    """What choices say of the stored bias of each layer. On the host.

    Args:
        revealed: as `reveal_price` returns it.
        stored: the bias; a constant per layer is immaterial.
        tokens: that `revealed` is of, to count those that contradict the stored bias.

    Raises:
        TraceError: a bias of another length, or one that is not finite.
    """
    stored = np.asarray(stored, float)
    if stored.shape != revealed.bias.shape:
        raise TraceError(
            f"the stored bias has shape {stored.shape}, the choices are of {revealed.bias.shape} "
            "(layer, expert): it belongs to another model, or to other layers."
        )
    if not np.isfinite(stored).all():
        layer, expert = np.argwhere(~np.isfinite(stored))[0]
        raise TraceError(f"the stored bias of layer {layer}, expert {expert} is not finite.")
    found = [_compare(revealed, layer, bias) for layer, bias in enumerate(stored)]
    if tokens is None:
        return found
    return [
        one._replace(share=_share(tokens, layer, revealed.rules[layer], stored[layer]))
        for layer, one in enumerate(found)
    ]


def _share(tokens: TokenTrace, layer: int, rule: SelectionRule | None, bias: np.ndarray) -> float:
    if rule is None:
        return np.nan
    ranked = ranked_tokens(tokens, layer, rule)
    slack = rounding_slack(tokens, layer, rule, ranked)
    return float((shortfall(ranked, bias) > slack).mean())


def _compare(revealed: RevealedPrice, layer: int, bias: np.ndarray) -> StoredBias:
    if not revealed.seen[layer]:
        return StoredBias(Verdict.UNSEEN, np.nan, np.nan)
    both = revealed.two_sided[layer]
    spread = bias[both] - bias[both].mean() if both.any() else np.zeros(0)
    square = (spread**2).sum()
    scale = (spread * revealed.bias[layer, both]).sum() / square if square > 0 else np.nan
    if revealed.conflict[layer]:
        return StoredBias(Verdict.CONFLICT, np.nan, float(scale))
    low = revealed.difference_low[layer]

    def excess(values):
        return max(float((low - (values[:, None] - values[None])).max()), 0.0)

    outside = excess(bias)
    if outside == 0:
        verdict = Verdict.UNDECIDED if excess(0 * bias) == 0 else Verdict.APPLIED
    elif excess(0 * bias) == 0:
        verdict = Verdict.NEVER_APPLIED
    elif excess(bias.astype(jnp.bfloat16).astype(float)) == 0:
        verdict = Verdict.ROUNDED
    elif excess(-bias) == 0:
        verdict = Verdict.REVERSED
    else:
        verdict = Verdict.OTHER
    return StoredBias(verdict, outside, float(scale))
