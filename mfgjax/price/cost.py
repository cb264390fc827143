"""What balance costs per token in score, with a certificate that it could not be had for less.

With the load f that the choices gave, no assignment of K experts to each token can reach a mean score
above the dual value

    D(b) = mean over tokens of [ sum of the K largest of score + b ]  -  K sum_i f_i b_i             (1)

for any b, and the choices reach it at the price in force: the gap D(b) - (score obtained) is 0 where they
are the top-K of score + b (loss-free balancing and its kin are subgradient steps on D; Wang et al. 2024,
arXiv 2408.15664). D(0) is the score of a router that did not balance.
"""

from typing import NamedTuple

import numpy as np

from mfgjax.price.bounds import RevealedPrice
from mfgjax.price.scores import Ranked, ranked_tokens
from mfgjax.trace.schema import TokenTrace


class PriceCost(NamedTuple):
    """One layer, in score units per token (sums over the K chosen experts).

    Attributes:
        cost: score given up against the top-K without a price.
        gap: proven: no assignment with this load gives up less than `cost - gap`.
        spread: root mean square over experts and tokens of the score within a token.
        price_spread: standard deviation of the price over experts, in units of `spread`.
    """

    cost: float
    gap: float
    spread: float
    price_spread: float


def price_cost(trace: TokenTrace, revealed: RevealedPrice, layer: int) -> PriceCost:
    """The cost of balance in one layer; NaN where the layer has no rule. On the host.

    Groups are held as chosen: with group-limited choice the cost is that of the price within them.
    """
    rule = revealed.rules[layer]
    if rule is None:
        return PriceCost(np.nan, np.nan, np.nan, np.nan)
    ranked = ranked_tokens(trace, layer, rule)
    bias = np.nan_to_num(revealed.bias[layer])
    load = ranked.chosen.mean(0)
    obtained = np.where(ranked.chosen, ranked.score, 0).sum(-1).mean()
    dual = _top(ranked, bias) - (load * bias).sum()
    spread = ranked.score.std(-1)
    spread = float(np.sqrt((spread**2).mean()))
    known = revealed.bias[layer][revealed.two_sided[layer]]
    relative = float(known.std() / spread) if known.size and spread > 0 else np.nan
    return PriceCost(
        float(_top(ranked, 0 * bias) - obtained), float(dual - obtained), spread, relative
    )


def _top(ranked: Ranked, bias: np.ndarray) -> float:
    """Mean sum of the K largest of score + bias among the compared."""
    total = np.where(ranked.compared, ranked.score + bias, -np.inf)
    top_k = ranked.choices.shape[1]
    return float(np.partition(total, -top_k, axis=-1)[:, -top_k:].sum(-1).mean())
