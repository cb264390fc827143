"""Token logits that are none, refused before a price is read from them."""

from collections.abc import Sequence

import numpy as np

from mfgjax.trace.choice_bound import SelectionRule
from mfgjax.trace.schema import TokenTrace, TraceError

_LOOKED_AT = 4096
_CENTRED = 1e-2
"""Share of the spread within a token below which every token's mean counts as taken off."""


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
