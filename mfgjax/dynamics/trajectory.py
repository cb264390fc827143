"""From per-text statistics of a sweep to effective congestion per checkpoint, layer and resample.

Every bootstrap is a matrix product: resampling texts with counts `W` turns per-text sums `S` into
`W S`, from which quality, load and dispersion follow. One compiled function serves all checkpoints,
in blocks that keep to a memory budget (`mfgjax.estimate.bootstrap`).
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from mfgjax.dynamics.sweep_tokens import TokensOf
from mfgjax.estimate import (
    TOKEN_QUALITIES,
    Quality,
    bootstrap_texts,
    estimate_dispersion,
    estimate_quality_and_load,
    fit_congestion,
    normalized_entropy,
    null_congestion,
    quality_spread,
    unit_weights,
)
from mfgjax.estimate.bootstrap import Estimator
from mfgjax.trace import TextStatistics


class LayerEstimates(eqx.Module):
    """What one weighting of the texts says about each layer. All dimensionless, logit units.

    Attributes:
        congestion: effective congestion of Definition 3.1 (arXiv 2604.04230), global minimum.
        residual: L1 best-response residual at that minimum, 0 to 2.
        minima: local minima of that residual seen on a fixed grid: above 1, a local search could
            have been wrong.
        at_boundary: the minimum sits on congestion = 0.
        status: a `FitStatus`, the worse of the two fits; above 0 the estimate is not certified.
        signed: signed maximum-likelihood congestion.
        null: congestion that logit dispersion alone produces, without any balancing.
        quality_spread: B0 = max - min of quality.
        entropy: of the load, divided by log M.
        dispersion: token-level standard deviation of the logits, root mean square over experts.
        max_load: largest dispatch fraction.
        dead_experts: experts that no token chose.
    """

    congestion: Float[Array, "*batch layer"]
    residual: Float[Array, "*batch layer"]
    minima: Int[Array, "*batch layer"]
    at_boundary: Bool[Array, "*batch layer"]
    status: Int[Array, "*batch layer"]
    signed: Float[Array, "*batch layer"]
    null: Float[Array, "*batch layer"]
    quality_spread: Float[Array, "*batch layer"]
    entropy: Float[Array, "*batch layer"]
    dispersion: Float[Array, "*batch layer"]
    max_load: Float[Array, "*batch layer"]
    dead_experts: Int[Array, "*batch layer"]


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Estimates of a sweep, from all its texts and from resampled ones, on the host.

    Attributes:
        estimate: from all texts, leading axis `checkpoint`.
        resampled: from resampled texts, leading axes `resample`, `checkpoint`. Resample `b` uses
            the same texts at every checkpoint, so differences between checkpoints are paired.
    """

    estimate: LayerEstimates
    resampled: LayerEstimates


@lru_cache
def layer_estimator(top_k: int, quality: Quality = "mean") -> Estimator:
    """`estimate_layers` for one `top_k`, as `mfgjax.estimate.bootstrap_texts` wants it.

    It leaves the minima of the resamples uncounted: counting would double the work.
    """
    return partial(estimate_layers, top_k=top_k, count_minima=False, quality=quality)


@partial(jax.jit, static_argnames=("top_k", "count_minima", "quality"))
def estimate_layers(
    statistics: TextStatistics,
    weights: Float[Array, "resample text"],
    top_k: int,
    count_minima: bool = True,
    quality: Quality = "mean",
) -> LayerEstimates:
    """Every per-layer estimate of one checkpoint, under each weighting of its texts.

    Not differentiable as a whole (the Definition 3.1 minimiser sits on a kink); see
    `mfgjax.estimate` for fits that are.

    Args:
        statistics: per-text sums of one checkpoint.
        weights: one row per resample, as `mfgjax.estimate.resample_weights` draws them.
        top_k: experts per token. Static.
        count_minima: whether to count local minima; `minima` is 1 throughout if not. Static.
        quality: what stands for an expert's quality (`estimate_quality_and_load`). Static. The
            dispersion and its null are always of all texts.

    Returns:
        Estimates with the batch axis `resample`.
    """
    tokens, logits = statistics.token_count, statistics.logit_sum
    value, load = estimate_quality_and_load(statistics, weights, quality)
    dispersion = estimate_dispersion(weights, tokens, logits, statistics.centred_square_sum)
    fit = fit_congestion(value, load, "l1", count_minima=count_minima)
    signed = fit_congestion(value, load, "kl")
    return LayerEstimates(
        congestion=fit.congestion,
        residual=fit.residual,
        minima=fit.minima,
        at_boundary=fit.at_boundary,
        status=jnp.maximum(fit.status, signed.status),
        signed=signed.congestion,
        null=null_congestion(dispersion, top_k, load.shape[-1]),
        quality_spread=quality_spread(value),
        entropy=normalized_entropy(load),
        dispersion=dispersion,
        max_load=load.max(-1),
        dead_experts=(load == 0).sum(-1),
    )


def estimate_checkpoint(
    statistics: TextStatistics,
    top_k: int,
    *,
    quality: Quality = "mean",
    resamples: int = 2000,
    seed: int = 0,
    memory: float = 1e9,
    mesh: Mesh | None = None,
) -> LayerEstimates:
    """Estimates of one checkpoint on the host: row 0 from all texts, then the resamples.

    All calls with texts and layers of one shape share their compilations, those of the trajectory
    included. Minima are counted in row 0 only.

    Args:
        statistics: per-text sums of one checkpoint.
        top_k: experts per token.
        quality: as in `estimate_layers`.
        resamples: bootstrap resamples of the texts; 0 for none.
        seed: of the resampling.
        memory: bytes that one device may use for work in flight.
        mesh: devices to spread the resamples over.
    """
    texts = statistics.token_count.shape[0]
    as_observed = unit_weights(texts).astype(statistics.token_count.dtype)
    first = jax.device_get(estimate_layers(statistics, as_observed, top_k, quality=quality))
    if not resamples:
        return first
    key, estimator = jax.random.key(seed), layer_estimator(top_k, quality)
    drawn = bootstrap_texts(statistics, key, resamples, estimator, memory=memory, mesh=mesh)
    return jax.tree.map(lambda a, b: np.concatenate([a, b]), first, drawn)


def estimate_trajectory(
    statistics: TextStatistics,
    top_k: int,
    *,
    quality: Quality = "mean",
    tokens_of: TokensOf | None = None,
    resamples: int = 2000,
    seed: int = 0,
    memory: float = 1e9,
    mesh: Mesh | None = None,
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda checkpoints: checkpoints,
) -> Trajectory:
    """Estimate every checkpoint of a sweep, and again from `resamples` resamplings of the texts.

    Args:
        statistics: per-text sums with leading axis `checkpoint`, the same texts throughout.
        top_k: experts per token.
        quality: what stands for an expert's quality (`estimate_quality_and_load`).
        tokens_of: the tokens of each checkpoint (`tokens_of_sweep`), for the qualities that need
            them.
        resamples: bootstrap resamples of the texts (cluster bootstrap); 0 for none.
        seed: of the resampling; equal seeds give equal results, whatever the memory or the mesh.
        memory: bytes that one device may use for work in flight.
        mesh: devices to spread the resamples over.
        progress: wraps the iteration over checkpoints, e.g. in a progress bar.
    """
    found = []
    for index in progress(range(len(statistics.token_count))):
        one = _checkpoint(statistics, index)
        if quality in TOKEN_QUALITIES and tokens_of is not None:
            one = tokens_of(index, one) or one
        settings = {"quality": quality, "resamples": resamples, "seed": seed}
        found.append(estimate_checkpoint(one, top_k, **settings, memory=memory, mesh=mesh))
    return Trajectory(
        estimate=jax.tree.map(lambda *leaves: np.stack([leaf[0] for leaf in leaves]), *found),
        resampled=jax.tree.map(
            lambda *leaves: np.stack([leaf[1:] for leaf in leaves], axis=1), *found
        ),
    )


def _checkpoint(statistics: TextStatistics, index: int) -> TextStatistics:
    return jax.tree.map(lambda leaf: leaf[index], statistics)
