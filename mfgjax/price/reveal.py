"""The price of every expert, revealed by the choices in a trace (theory: `bounds.py`)."""

from collections.abc import Sequence

import numpy as np

from mfgjax.price.bounds import RevealedPrice, reveal_from_bounds
from mfgjax.price.conflict import explain_conflict
from mfgjax.trace.choice_bound import SelectionRule, choice_bound_of, selection_rule
from mfgjax.trace.schema import StatisticsTrace, TokenTrace, TraceError

REFUSED_SHARE = 0.2
"""More tokens than this that no bias explains: the logits are not those behind the choices."""


_LOOKED_AT = 4096
_CENTRED = 1e-2
"""Share of the spread within a token below which every token's mean counts as taken off."""


def reveal_price(
    trace: TokenTrace | StatisticsTrace,
    *,
    rules: Sequence[SelectionRule | None] | None = None,
    blocks: Sequence[int] | None = None,
    refused_share: float = REFUSED_SHARE,
) -> RevealedPrice:
    """The price of every expert from one trace. On the host; not differentiable.

    Args:
        trace: of tokens, or statistics with `choice_bound`.
        rules: how each layer ranks experts, where the trace does not say; None for a layer to leave out.
        blocks: of statistics, the blocks of texts to use; default all.
        refused_share: refuse tokens of which a larger share is explained by no bias; 1 refuses none.

    Raises:
        TraceError: no bounds in the statistics; choices that are not the top-K of these logits; logits that are none (probabilities, NaN), or whose
            token means were taken off although the score needs them; no layer with a known rule.
    """
    metadata = trace.metadata
    if rules is None:
        rules = _known_rules(trace)
    if len(rules) != len(metadata.layers):
        raise TraceError(
            f"{len(rules)} rules for {len(metadata.layers)} layers: name one for each."
        )
    if isinstance(trace, StatisticsTrace):
        if trace.choice_bound is None:
            raise TraceError(
                "this statistics trace holds no choice_bound: extract it again (mfgjax-extract writes it "
                "unless --choice-blocks is 0), or read the trace of tokens."
            )
        taken = trace.choice_bound if blocks is None else trace.choice_bound[list(blocks)]
        bound = taken.max(0).astype(float)
    else:
        check_token_logits(trace, rules)
        shape = (len(rules), metadata.experts, metadata.experts)
        bound = np.full(shape, -np.inf)
        for layer, rule in enumerate(rules):
            if rule is not None:
                bound[layer] = choice_bound_of(trace, layer, 1, rule)[0]
    found = reveal_from_bounds(bound, rules, metadata.layers)
    if isinstance(trace, TokenTrace) and refused_share < 1:
        _refuse(trace, found, refused_share)
    return found


def check_token_logits(trace: TokenTrace, rules: Sequence[SelectionRule | None]) -> None:
    """Raise `TraceError` where the logits cannot be what the routers ranked.

    A constant per token changes no difference of logits, nor a softmax, so logits centred by another
    tool are as good as raw ones there. A sigmoid of centred logits is not the router's score.
    """
    for layer, rule in enumerate(rules):
        if rule is None:
            continue
        where = f"layer {layer} ({trace.metadata.layers[layer]})"
        logits = trace.logits[:, layer].astype(np.float32)
        if not np.isfinite(logits).all():
            token, expert = np.argwhere(~np.isfinite(logits))[0]
            raise TraceError(
                f"{where}: the logit of expert {expert} is {logits[token, expert]} at token {token}. "
                "Drop the token, or extract again in a wider type."
            )
        looked = logits[:_LOOKED_AT]
        if (looked >= 0).all() and np.allclose(looked.sum(-1), 1, atol=2e-2):
            raise TraceError(
                f"{where}: the logits are probabilities (they sum to 1). A price is added to raw logits, "
                "or to scores computed from them: record the router's linear output."
            )
        centred = np.abs(looked.mean(-1)) < _CENTRED * looked.std(-1)
        if rule.score in ("sigmoid", "sqrtsoftplus") and len(looked) > 1 and centred.all():
            raise TraceError(
                f"{where}: every token's logits have mean 0, so somebody took the mean off. That is "
                f"harmless for logits and softmax, but a {rule.score} of them is not the router's score: "
                "record raw logits."
            )


def _refuse(trace: TokenTrace, found: RevealedPrice, most: float) -> None:
    for layer in np.flatnonzero(found.conflict):
        rule = found.rules[layer]
        assert rule is not None
        conflict = explain_conflict(trace, int(layer), rule)
        if conflict.share > most:
            raise TraceError(
                f"layer {layer} ({found.layers[layer]}): the choices of {conflict.share:.1%} of tokens are "
                f"not the top-K of {rule.score} + any bias (at least {conflict.least_share:.1%} for sure). "
                f"Likely {conflict.reason}: {conflict.detail}. Are logits and choices of the same layer and "
                "forward? Pass rules=... if another rule is in force, or raise refused_share."
            )


def _known_rules(trace: TokenTrace | StatisticsTrace) -> list[SelectionRule | None]:
    rules, refusals = [], []
    for layer in range(len(trace.metadata.layers)):
        try:
            rules.append(selection_rule(trace.metadata, layer, trace.selection_bias is not None))
        except TraceError as refusal:
            refusals.append(refusal)
            rules.append(None)
    if len(refusals) == len(rules):
        raise refusals[0]
    return rules
