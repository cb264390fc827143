"""Standard error of the kl congestion that is right when the model is not: clustered on texts.

The estimate is a smooth function of weighted sums over texts. Its derivative in the weight of one
text is that text's influence; the infinitesimal jackknife (Efron 1982; the sandwich of White 1982
with texts as clusters) adds up squared influences:

    se^2 = S/(S-1) sum_t w_t (d congestion / d w_t)^2.                                      (1)

No independence of tokens within a text is assumed, nor that the load is an equilibrium.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.estimate.congestion.fit import fit_congestion
from mfgjax.estimate.inference.quality import estimate_load, estimate_mean_quality
from mfgjax.estimate.inference.weights import sum_over_texts
from mfgjax.game.precision import full_precision
from mfgjax.trace.schema import TextStatistics


@full_precision
def text_influence(
    statistics: TextStatistics, weights: Float[Array, "resample text"]
) -> tuple[Float[Array, "resample layer"], Float[Array, "text resample layer"]]:
    """The kl congestion, and its derivative in the weight of each text."""
    tokens, counts = statistics.token_count, statistics.dispatch_count
    quality = estimate_mean_quality(weights, tokens, statistics.logit_sum)
    load = estimate_load(weights, counts)

    def congestion(quality, load):
        return fit_congestion(quality, load, "kl").congestion

    found, pull = jax.vjp(congestion, quality, load)
    # Every instance depends on its own row only: one pull-back of ones gives all gradients.
    by_quality, by_load = pull(jnp.ones_like(found))
    total = sum_over_texts(weights, tokens)[:, None]
    dispatched = sum_over_texts(weights, counts).sum(-1)
    # d quality / d w_t = (logit_sum_t - token_count_t quality) / total, and so for the load.
    along = jnp.einsum("rle,tle->trl", by_quality, statistics.logit_sum)
    own = (by_quality * quality).sum(-1)
    from_quality = (along - tokens[:, None, None] * own[None]) / total[None]
    along = jnp.einsum("rle,tle->trl", by_load, counts)
    own = (by_load * load).sum(-1)
    from_load = (along - counts.sum(-1)[:, None, :] * own[None]) / dispatched[None]
    return found, from_quality + from_load


def sandwich_error(
    statistics: TextStatistics, weights: Float[Array, "resample text"]
) -> tuple[Float[Array, "resample layer"], Float[Array, "resample layer"]]:
    """The kl congestion and its standard error (1), for each weighting of the texts."""
    found, influence = text_influence(statistics, weights)
    texts = weights.shape[-1]
    square = jnp.einsum("rt,trl->rl", weights, influence**2)
    return found, jnp.sqrt(square * texts / (texts - 1))
