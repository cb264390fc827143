"""From per-text statistics of a sweep to effective congestion per checkpoint, layer and resample.

Every bootstrap is a matrix product: resampling texts with counts `W` turns per-text sums `S` into
`W S`, from which quality, load and dispersion follow. One compiled function serves all checkpoints,
in blocks that keep to a memory budget (`mfgjax.estimate.inference.bootstrap`).
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from mfgjax.dynamics.sweep_tokens import TokensOf
from mfgjax.estimate.congestion.diagnostics import (
    normalized_entropy,
    quality_spread,
    scale_sensitivity,
)
from mfgjax.estimate.congestion.fit import fit_congestion
from mfgjax.estimate.congestion.result import CongestionFit
from mfgjax.estimate.inference.bootstrap import Estimator, bootstrap_texts
from mfgjax.estimate.inference.corrected import CorrectedFit, fit_corrected
from mfgjax.estimate.inference.quality import estimate_dispersion
from mfgjax.estimate.inference.quality_choice import (
    TOKEN_QUALITIES,
    Quality,
    estimate_quality_and_load,
)
from mfgjax.estimate.inference.weights import jackknife_groups, leave_out_weights, unit_weights
from mfgjax.estimate.null.dispersion import null_congestion
from mfgjax.trace import TextStatistics


class LayerEstimates(eqx.Module):
    """What one weighting of the texts says about each layer. All dimensionless, logit units.

    Attributes:
        congestion: effective congestion of Definition 3.1 (arXiv 2604.04230), global minimum.
        residual: L1 best-response residual at that minimum, 0 to 2.
        minima: local minima of that residual seen on a fixed grid: above 1, a local search could
            have been wrong.
        at_boundary: the minimum sits on congestion = 0.
        status: a `FitStatus`, the worst of the fits; above 0 the estimate is not certified.
        unclipped: the same with a search range that reaches below 0, to -2 M: where the estimate sits
            on 0 its resamples do too, and say nothing about its noise.
        signed: signed maximum-likelihood congestion.
        scale_sensitivity: its derivative in the logarithm of the scale of the logits, at fixed load.
        dispersion_null: congestion that logit dispersion alone produces, without any balancing.
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
    unclipped: Float[Array, "*batch layer"]
    signed: Float[Array, "*batch layer"]
    scale_sensitivity: Float[Array, "*batch layer"]
    dispersion_null: Float[Array, "*batch layer"]
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
        left_out: from all texts but one group (a text, or a document), leading axes `group`,
            `checkpoint`.
        corrected: signed congestion corrected for the noise of few texts, with what each group of
            texts does to it.
    """

    estimate: LayerEstimates
    resampled: LayerEstimates
    left_out: LayerEstimates
    corrected: CorrectedFit


@lru_cache
def layer_estimator(top_k: int, quality: Quality = "mean") -> Estimator:
    """`estimate_layers` for one `top_k`, as `mfgjax.estimate.bootstrap_texts` wants it.

    It leaves the minima of the resamples uncounted, and takes the L1 estimate of a resample from the
    one fit that reaches below 0: each would double the work.
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
        count_minima: whether to count local minima; `minima` is 1 throughout if not, and `congestion`
            and `residual` are those of the search below 0, the former cut off at 0 (the same number
            unless a second minimum lies below 0). Static.
        quality: what stands for an expert's quality (`estimate_quality_and_load`). Static. The
            dispersion and its null are always of all texts.

    Returns:
        Estimates with the batch axis `resample`.
    """
    tokens, logits = statistics.token_count, statistics.logit_sum
    value, load = estimate_quality_and_load(statistics, weights, quality)
    dispersion = estimate_dispersion(weights, tokens, logits, statistics.centred_square_sum)
    # Definition 3.1 of quality + c load is that of quality, plus c: so a search from 0 reaches -c.
    below = 2 * load.shape[-1]
    lower = fit_congestion(value + below * load, load, "l1", count_minima=False)
    unclipped = lower.congestion - below
    if count_minima:
        fit = fit_congestion(value, load, "l1")
    else:
        clipped = jnp.maximum(unclipped, 0)
        fit = eqx.tree_at(lambda f: (f.congestion, f.at_boundary), lower, (clipped, unclipped <= 0))
    signed = fit_congestion(value, load, "kl")
    return LayerEstimates(
        congestion=fit.congestion,
        residual=fit.residual,
        minima=fit.minima,
        at_boundary=fit.at_boundary,
        status=jnp.maximum(fit.status, signed.status),
        unclipped=unclipped,
        signed=signed.congestion,
        scale_sensitivity=scale_sensitivity(signed.congestion, value, load),
        dispersion_null=null_congestion(dispersion, top_k, load.shape[-1]),
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
    documents: Sequence | None = None,
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
        documents: document of each text, any labels: whole documents are then resampled.
        memory: bytes that one device may use for work in flight.
        mesh: devices to spread the resamples over.
    """
    settings = {"quality": quality, "resamples": resamples, "seed": seed}
    settings |= {"documents": documents, "memory": memory, "mesh": mesh}
    return _estimate(statistics, top_k, np.zeros((0, statistics.token_count.shape[0])), **settings)


def _estimate(
    statistics: TextStatistics,
    top_k: int,
    without: Float[np.ndarray, "group text"],
    *,
    quality: Quality,
    resamples: int,
    seed: int,
    documents: Sequence | None,
    memory: float,
    mesh: Mesh | None,
) -> LayerEstimates:
    """Rows from all texts, from those of `without`, and resampled: one program for all of them."""
    cluster = None if documents is None else np.unique(documents, return_inverse=True)[1]
    rows = np.concatenate([np.ones((1, without.shape[1])), without])
    drawn = bootstrap_texts(
        statistics,
        jax.random.key(seed),
        resamples,
        layer_estimator(top_k, quality),
        memory=memory,
        mesh=mesh,
        cluster=cluster,
        rows=rows,
    )
    # Of all texts the fit itself, with its minima, and not what a search below 0 says of it.
    fit = jax.device_get(fit_checkpoint(statistics, quality))
    for name in ("congestion", "residual", "minima", "at_boundary"):
        getattr(drawn, name)[0] = getattr(fit, name)
    drawn.status[0] = np.maximum(drawn.status[0], fit.status)
    return drawn


@partial(jax.jit, static_argnames="quality")
def fit_checkpoint(statistics: TextStatistics, quality: Quality = "mean") -> CongestionFit:
    """Definition 3.1 of every layer of one checkpoint, with its local minima counted.

    Args:
        statistics: per-text sums of the checkpoint.
        quality: as in `estimate_layers`. Static.
    """
    weights = unit_weights(statistics.token_count.shape[0], statistics.token_count.dtype)
    value, load = estimate_quality_and_load(statistics, weights, quality)
    return fit_congestion(value[0], load[0], "l1")


def estimate_trajectory(
    statistics: TextStatistics,
    top_k: int,
    *,
    quality: Quality = "mean",
    tokens_of: TokensOf | None = None,
    resamples: int = 2000,
    seed: int = 0,
    documents: Sequence[int] | None = None,
    memory: float = 1e9,
    mesh: Mesh | None = None,
    keep: Collection[str] | None = None,
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
        seed: of the resampling; equal seeds give equal results, whatever the memory; the null and the
            dispersion may differ in the last bit between meshes.
        documents: document of each text, where documents were cut into texts: whole documents are
            then resampled and left out.
        memory: bytes that one device may use for work in flight.
        mesh: devices to spread the resamples over.
        keep: estimates whose resamples are wanted, by name; of the others `resampled` has none. A
            number of 4 bytes per resample, checkpoint and layer each. All if not given.
        progress: wraps the iteration over checkpoints, e.g. in a progress bar.
    """
    group = jackknife_groups(statistics.token_count.shape[1], documents=documents)
    without = leave_out_weights(group).astype(statistics.token_count.dtype)
    groups = len(without)
    checkpoints = len(statistics.token_count)
    kept, whole, left_out, corrected = {}, [], [], []
    for index in progress(range(checkpoints)):
        one = _checkpoint(statistics, index)
        if quality in TOKEN_QUALITIES and tokens_of is not None:
            one = tokens_of(index, one) or one
        settings = {"quality": quality, "resamples": resamples, "seed": seed}
        settings |= {"documents": documents, "memory": memory, "mesh": mesh}
        found = _estimate(one, top_k, without, **settings)
        whole.append(jax.tree.map(lambda leaf: leaf[0].copy(), found))
        left_out.append(jax.tree.map(lambda leaf: leaf[1 : 1 + groups].copy(), found))
        for name in LayerEstimates.__dataclass_fields__:
            drawn = getattr(found, name)[1 + groups :]
            if keep is not None and name not in keep:
                drawn = drawn[:0]
            # Filled in place: resamples are what memory goes to, and a copy would double it.
            into = (drawn.shape[0], checkpoints, *drawn.shape[1:])
            kept.setdefault(name, np.empty(into, drawn.dtype))[:, index] = drawn
        corrected.append(
            jax.device_get(correct_checkpoint(one, whole[-1].signed, without, quality))
        )
    return Trajectory(
        estimate=jax.tree.map(lambda *leaves: np.stack(leaves), *whole),
        resampled=LayerEstimates(**kept),
        left_out=jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *left_out),
        # Layers are the last axis of every leaf, checkpoints go before them.
        corrected=jax.tree.map(lambda *leaves: np.stack(leaves, axis=-2), *corrected),
    )


@partial(jax.jit, static_argnames="quality")
def correct_checkpoint(
    statistics: TextStatistics,
    signed: Float[Array, " layer"],
    without: Float[Array, "group text"],
    quality: Quality = "mean",
) -> CorrectedFit:
    """`mfgjax.estimate.fit_corrected` of one checkpoint.

    Args:
        statistics: per-text sums of the checkpoint.
        signed: its signed congestion, where the search starts.
        without: weights with each group of texts left out.
        quality: as in `estimate_layers`. Static.
    """
    texts = statistics.token_count.shape[0]
    weights = jnp.concatenate([unit_weights(texts, without.dtype), without])
    value, load = estimate_quality_and_load(statistics, weights, quality)
    return fit_corrected(signed, value[0], load[0], value[1:], load[1:])


def _checkpoint(statistics: TextStatistics, index: int) -> TextStatistics:
    return jax.tree.map(lambda leaf: leaf[index], statistics)
