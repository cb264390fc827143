"""Bootstrap weights: how often each text is drawn in each resample.

Resample r of a seed is a pure function of (key, r): however a job is cut into chunks or spread over
devices, resample r always gets the same texts. Everything downstream is `weights @ per-text sums`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

ROW = 64  # draws of a resample, or as many as there are clusters where those are more
EXACT = lax.Precision.HIGHEST
"""Of every product with weights. By default a GPU may round its factors to 11 bits (TF32): a count of
5,000 dispatches would come back off by up to two."""


def resample_weights(
    key: PRNGKeyArray,
    texts: int,
    resamples: int,
    *,
    start: int | Int[Array, ""] = 0,
    cluster: Int[Array | np.ndarray, " text"] | None = None,
    dtype=jnp.float32,
) -> Float[Array, "resample text"]:
    """Multinomial counts of `texts` texts drawn `texts` times with replacement.

    Args:
        key: of the whole job.
        texts: number of texts. Static.
        resamples: number of rows. Static.
        start: index of the first row in the job. Traced: chunk c of size n passes `start=c * n`.
        cluster: document of each text, 0..documents-1, where documents were split into texts: whole
            documents are then drawn, as many as there are. Concrete, not traced.
        dtype: of the weights.

    Returns:
        Integer-valued weights; each row sums to `texts` (without `cluster`).
    """
    clusters = texts if cluster is None else int(np.max(np.asarray(cluster))) + 1

    def one(index):
        # The first of a longer row: LLVM unrolls the generator over a short one, which takes long to compile.
        row = (max(clusters, ROW),)
        drawn = jax.random.randint(jax.random.fold_in(key, index), row, 0, clusters)[:clusters]
        return jnp.zeros(clusters, dtype).at[drawn].add(1)

    weights = jax.vmap(one)(jnp.arange(resamples, dtype=jnp.int32) + jnp.asarray(start, jnp.int32))
    return weights if cluster is None else weights[:, cluster]


def sum_over_texts(
    weights: Float[Array, "*resample text"], per_text: Float[Array, " text *rest"]
) -> Float[Array, "..."]:
    """`weights @ per_text`, `[*resample, *rest]`, in the full precision of the type on every device."""
    return jnp.tensordot(weights, per_text, axes=1, precision=EXACT)


def unit_weights(texts: int, dtype=jnp.float32) -> Float[Array, "1 text"]:
    """The sample as observed: the row that gives the point estimate."""
    return jnp.ones((1, texts), dtype)


def leave_one_out_weights(texts: int, dtype=jnp.float32) -> Float[Array, "text text"]:
    """Row t leaves out text t: the jackknife, for acceleration constants and standard errors."""
    return jnp.ones((texts, texts), dtype) - jnp.eye(texts, dtype=dtype)


MOST_GROUPS = 100
"""Groups that a jackknife leaves out in turn: more cost memory and say little more."""


def jackknife_groups(
    texts: int, *, documents: Sequence[int] | None = None, most: int = MOST_GROUPS
) -> Int[np.ndarray, " text"]:
    """Which group each text is left out with: its own, its document's, or one of `most`.

    Args:
        texts: number of texts.
        documents: document of each text, any labels that compare equal within a document.
        most: beyond so many texts (or documents), neighbours share a group.

    Raises:
        ValueError: `documents` of another length, or fewer than three groups.
    """
    labels = np.arange(texts) if documents is None else np.asarray(documents)
    if labels.shape != (texts,):
        raise ValueError(
            f"documents name {labels.size} texts, but there are {texts}: give one name per text, in their order"
        )
    group = np.unique(labels, return_inverse=True)[1]
    count = int(group.max()) + 1
    if count < 3:
        what = "texts" if documents is None else "documents"
        raise ValueError(f"{count} {what} give no standard error: at least 3 are needed (say 50)")
    return group if count <= most else group * most // count


def refuse_few_texts(source: object, texts: int) -> None:
    """Raise `ValueError`, naming the file or folder `source`, where no jackknife can be had."""
    if texts < 3:
        raise ValueError(
            f"{source}: {texts} text{'s' * (texts != 1)} give{'s' * (texts == 1)} no standard error: at "
            "least 3 are needed (say 50). Extract it again with more texts."
        )


def leave_out_weights(
    group: Int[np.ndarray, " text"], dtype: DTypeLike = np.float32
) -> Float[np.ndarray, "group text"]:
    """Row g leaves out the texts of group g."""
    return (group[None] != np.arange(group.max() + 1)[:, None]).astype(dtype)
