"""An interval for congestion at the level of tokens, from the revealed price.

To first order in how far the price is from a line in the load, the projection of `token_congestion.py` is
the slope of the price on the load in the metric of the tokens at the edge of their top-K,

    gamma = f' J p / f' J f,     J = - d load / d price at the price in force,                        (1)

so its interval is that of `slope.py` with J for the identity: the noise of f taken off, Fieller's interval over
texts. J is estimated from all tokens with the top-K softened, and held fixed: it is smooth where the load
itself is a step function, which a jackknife needs. Measured coverage: `python -m benchmarks.studies.token_coverage`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mfgjax.price.bounds import RevealedPrice
from mfgjax.price.reveal import reveal_price
from mfgjax.price.scores import Ranked, ranked_tokens
from mfgjax.price.slope import PriceSlope, slope_of_price
from mfgjax.price.smooth import soft_top_k
from mfgjax.trace.schema import TokenTrace

SOFTNESS = 0.1
"""Temperature of the softened top-K, of the spread of the scores within a token."""
MOST_TOKENS = 20_000
"""That J is averaged over; more say no more."""


def token_congestion_interval(
    trace: TokenTrace,
    *,
    revealed: RevealedPrice | None = None,
    documents: Sequence[int] | None = None,
    level: float = 0.95,
) -> PriceSlope:
    """The projection of each layer, corrected for noise, with its interval over texts. On the host.

    Args:
        trace: of tokens.
        revealed: the price, where it is known already.
        documents: document of each text, where documents were split into texts.
        level: nominal coverage.

    Returns:
        As `estimate_price_slope`, whose slope (1) is with the identity for J. NaN in layers where no
        bias explains the choices.

    Raises:
        TraceError: as `reveal_price`.
        ValueError: fewer than three texts.
    """
    revealed = reveal_price(trace) if revealed is None else revealed
    used = revealed.two_sided & ~revealed.conflict[:, None]
    metric = np.zeros(revealed.difference_low.shape)
    for layer, rule in enumerate(revealed.rules):
        if rule is not None and used[layer].any():
            ranked = ranked_tokens(trace, layer, rule)
            metric[layer] = edge_metric(ranked, np.nan_to_num(revealed.bias[layer]))
    return slope_of_price(trace, revealed, metric=metric, documents=documents, level=level)


def edge_metric(
    ranked: Ranked, bias: Float[np.ndarray, " expert"]
) -> Float[np.ndarray, "expert expert"]:
    """J of (1): symmetric, positive semidefinite, rows sum to 0."""
    every = -(-len(ranked.score) // MOST_TOKENS)
    score = np.where(ranked.compared, ranked.score + bias, -1e30)[::every]
    temperature = SOFTNESS * float(ranked.score[::every].std(-1).mean())
    member = soft_top_k(jnp.asarray(score), ranked.choices.shape[1], jnp.asarray(temperature))
    slope = np.asarray(jax.jit(lambda m: m * (1 - m))(member)) / temperature
    total = slope.sum(-1, keepdims=True)
    within = slope / np.sqrt(np.where(total > 0, total, 1))
    return (np.diag(slope.sum(0)) - within.T @ within) / (len(slope) * ranked.choices.shape[1])
