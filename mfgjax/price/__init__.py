"""The price of every expert and congestion at the level of tokens, from logits and choices.

    revealed = reveal_price(trace)                # every difference of selection biases, with bounds
    slope = estimate_price_slope(trace)           # congestion: the slope of the price on the load
    compare_stored_bias(revealed, trace.selection_bias)   # does the router use the bias it stores?
    price_cost(trace, revealed, layer)            # what balance costs per token, certified
    fit_token_congestion(trace, layer)            # one number where the price is no line in the load

Theory, bounds and measured coverage: docs/price.md.
"""

from mfgjax.price.conflict import explain_conflict
from mfgjax.price.cost import price_cost
from mfgjax.price.reveal import reveal_price
from mfgjax.price.slope import estimate_price_slope
from mfgjax.price.stored_bias import compare_stored_bias
from mfgjax.price.token_congestion import fit_token_congestion
from mfgjax.price.token_interval import token_congestion_interval

__all__ = [
    "compare_stored_bias",
    "estimate_price_slope",
    "explain_conflict",
    "fit_token_congestion",
    "price_cost",
    "reveal_price",
    "token_congestion_interval",
]
