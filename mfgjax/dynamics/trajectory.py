"""From per-text statistics of a sweep to effective congestion per checkpoint, layer and resample.

Every bootstrap is a matrix product: resampling texts with counts `W` turns per-text sums `S` into
`W S`, from which quality, load and dispersion follow. One compiled function serves all checkpoints,
in blocks that keep to a memory budget (`mfgjax.estimate.inference.bootstrap`).
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from mfgjax.dynamics.layer_estimates import FROM_ZERO, LayerEstimates, layer_estimator
from mfgjax.dynamics.sweep_tokens import TokensOf
from mfgjax.estimate.inference.bootstrap import bootstrap_texts
from mfgjax.estimate.inference.corrected import CorrectedFit, fit_corrected
from mfgjax.estimate.inference.quality import (
    TOKEN_QUALITIES,
    Quality,
    estimate_quality_and_load,
)
from mfgjax.estimate.inference.weights import jackknife_groups, leave_out_weights, unit_weights
from mfgjax.trace.schema import TextStatistics


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
    """Estimates of one checkpoint on the host: from all texts, from those of `without`, and resampled.

    One program for all of them, and for all calls with texts and layers of one shape. Minima are counted in
    row 0 only.
    """
    cluster = None if documents is None else np.unique(documents, return_inverse=True)[1]
    # All texts twice: Definition 3.1 from 0, and from below 0.
    rows = np.concatenate([np.ones((2, without.shape[1])), without])
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
    for name in ("congestion", "residual", "minima", "at_boundary"):
        getattr(drawn, name)[0] = getattr(drawn, name)[FROM_ZERO]
    drawn.status[0] = np.maximum(drawn.status[0], drawn.status[FROM_ZERO])
    return jax.tree.map(lambda leaf: np.delete(leaf, FROM_ZERO, axis=0), drawn)


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
        memory: bytes that one device may use for a block of resamples.
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
        found = _estimate(
            one,
            top_k,
            without,
            quality=quality,
            resamples=resamples,
            seed=seed,
            documents=documents,
            memory=memory,
            mesh=mesh,
        )
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
    """`fit_corrected` of one checkpoint.

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
