"""The price of every expert, revealed by the choices in a trace (theory: `bounds.py`)."""

from collections.abc import Sequence

import numpy as np

from mfgjax.price.bounds import RevealedPrice, reveal_from_bounds
from mfgjax.price.conflict import explain_conflict
from mfgjax.price.input import check_token_logits
from mfgjax.trace.choice_bound import SelectionRule, choice_bound_of, selection_rule
from mfgjax.trace.schema import StatisticsTrace, TokenTrace, TraceError

REFUSED_SHARE = 0.2
"""More tokens than this that no bias explains: the logits are not those behind the choices."""


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
