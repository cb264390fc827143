"""Congestion of every resample: a matrix product on per-text sums, in blocks, over devices.

The unit of work is a block of `BLOCK` resamples of one checkpoint: draw its weights, multiply, fit.
A block is a pure function of (key, block index), compiled once at one shape, whatever the number of
resamples; on which device each runs only decides where the same program runs.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mfgjax.estimate.congestion.fit import Objective, fit_congestion
from mfgjax.estimate.inference.quality import Quality, estimate_quality_and_load
from mfgjax.estimate.inference.token_quality import TokenStatistics
from mfgjax.estimate.inference.weights import EXACT, resample_weights, sum_over_texts
from mfgjax.trace.schema import TextStatistics

BLOCK = 256
"""Resamples per block. Fixed, so that results do not depend on memory; nor, but for the last bits of
float32 sums, on devices."""

Estimator = Callable[[TextStatistics, Float[Array, "resample text"], Bool[Array, ""]], Any]
"""From per-text sums and weights to a pytree of arrays `[resample, ...]`; and whether the weights are the
`rows` of the caller rather than resamples."""


@lru_cache
def congestion_estimator(objective: Objective = "l1", quality: Quality = "mean") -> Estimator:
    """Congestion and status per resample and layer, from a quality and dispatch fractions."""

    def chosen(statistics, weights, own=None):
        del own
        found, load = estimate_quality_and_load(statistics, weights, quality)
        fit = fit_congestion(found, load, objective, count_minima=False)
        return fit.congestion, fit.status

    def estimate(statistics, weights, own=None):
        del own
        # Sums with resamples last: experts can lead without a transposition of single numbers.
        tokens = sum_over_texts(weights, statistics.token_count)
        quality = jnp.tensordot(statistics.logit_sum, weights, ((0,), (1,)), precision=EXACT)
        counts = jnp.tensordot(statistics.dispatch_count, weights, ((0,), (1,)), precision=EXACT)
        quality = jnp.moveaxis(quality / tokens[None, None], 1, 0)
        load = jnp.moveaxis(counts / counts.sum(1, keepdims=True), 1, 0)
        fit = fit_congestion(quality, load, objective, count_minima=False, expert_axis=0)
        return fit.congestion.T, fit.status.T

    return estimate if quality == "mean" else chosen


def bootstrap_texts(
    statistics: TextStatistics,
    key: PRNGKeyArray,
    resamples: int,
    estimator: Estimator,
    *,
    memory: float = 1e9,
    mesh: Mesh | None = None,
    cluster: Int[Array | np.ndarray, " text"] | None = None,
    rows: Float[np.ndarray, "row text"] | None = None,
) -> Any:
    """Apply `estimator` to `resamples` resamplings of the texts of one checkpoint.

    Args:
        statistics: per-text sums, no batch axes; `TokenStatistics` for qualities that need tokens.
        key: of the resampling; pass the same one for every checkpoint to pair them.
        resamples: number of resamples.
        estimator: one object per job, not a fresh lambda per call: it is compiled once.
        memory: bytes that one device may use for a block. Results are on the host.
        mesh: devices to spread the blocks over, along its only axis; in a `jax.distributed` job
            all devices of all processes, and every process gets the whole result.
        cluster: document of each text, to draw whole documents (see `resample_weights`).
        rows: weights of our own to estimate in the same program, at most `BLOCK`: all texts, say, and
            each left out.

    Returns:
        The estimator's pytree as NumPy arrays, leading axis `resamples`, those of `rows` first.

    Raises:
        ValueError: if one block does not fit in `memory`, or `rows` are more than a block.
    """
    texts, layers, experts = statistics.logit_sum.shape
    # Quality, load, their scaled copies and the products: about twelve arrays of this size live.
    itemsize = statistics.logit_sum.dtype.itemsize
    numbers = 12 * layers * experts + 2 * texts
    if isinstance(statistics, TokenStatistics):
        # Weights and running sums of the tokens of one expert, in float and integer.
        numbers += 4 * statistics.sorted_tokens.text.shape[-1]
    block_bytes = BLOCK * numbers * itemsize
    if memory < block_bytes:
        raise ValueError(
            f"one block of {BLOCK} resamples takes about {block_bytes / 1e6:.0f} MB for {layers} "
            f"layers x {experts} experts: raise memory, now {memory / 1e6:.0f} MB"
        )
    count = 0 if rows is None else len(rows)
    if count > BLOCK:
        raise ValueError(f"{count} rows of weights are more than a block of {BLOCK}: pass fewer")
    given = np.ones((BLOCK, texts), statistics.logit_sum.dtype)
    if rows is not None:
        given[:count] = rows
    devices = 1 if mesh is None else mesh.devices.size
    own = 0 if rows is None else 1
    blocks = own - (-resamples // BLOCK)
    parts, running = [], None
    for start in range(-own, blocks - own, devices):
        index = np.arange(start, start + devices, dtype=np.int32)  # block -1 is of `rows`
        out = _run_blocks(statistics, key, given, index, estimator, mesh, cluster)
        if running is not None:  # the next block is at work while this one is fetched
            parts.append(_fetched(*running, mesh))
        resample = (index[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        running = out, np.where(resample < 0, resample + BLOCK < count, resample < resamples)
    if running is not None:
        parts.append(_fetched(*running, mesh))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _run_blocks(statistics, key, given, index, estimator, mesh, cluster):
    cluster = None if cluster is None else tuple(np.asarray(cluster).tolist())
    run = _compiled(estimator, mesh, cluster)
    if mesh is None:
        return run(statistics, key, given, index)
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    shards = jax.make_array_from_callback(index.shape, sharding, lambda where: index[where])
    return run(statistics, key, given, shards)


def _fetched(out, keep, mesh):
    """On the host: of a call's resamples those that were asked for."""
    if mesh is None or jax.process_count() == 1:
        out = jax.device_get(out)
    else:
        from jax.experimental import multihost_utils

        out = jax.device_get(multihost_utils.process_allgather(out, tiled=True))
    return jax.tree.map(lambda leaf: leaf[keep], out)


@lru_cache(maxsize=32)
def _compiled(estimator: Estimator, mesh: Mesh | None, cluster: tuple[int, ...] | None):
    documents = None if cluster is None else np.asarray(cluster)

    def blocks(statistics, key, given, index):
        texts = statistics.token_count.shape[0]
        dtype = statistics.logit_sum.dtype

        def block(number):
            weights = resample_weights(
                key, texts, BLOCK, start=number * BLOCK, cluster=documents, dtype=dtype
            )
            own = number < 0
            return estimator(statistics, jnp.where(own, given, weights), own)

        out = lax.map(block, index)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out)

    if mesh is None:
        return jax.jit(blocks)
    axis = PartitionSpec(mesh.axis_names[0])
    everywhere = PartitionSpec()
    return jax.jit(
        jax.shard_map(
            blocks,
            mesh=mesh,
            in_specs=(everywhere, everywhere, everywhere, axis),
            out_specs=axis,
            check_vma=False,
        )
    )
