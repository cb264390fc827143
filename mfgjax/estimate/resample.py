"""Bootstrap weights: how often each text is drawn in each resample.

Resample r of a seed is a pure function of (key, r): however a job is cut into chunks or spread over
devices, resample r always gets the same texts. Everything downstream is `weights @ per-text sums`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


def resample_weights(
    key: PRNGKeyArray,
    texts: int,
    resamples: int,
    *,
    start: int | Int[Array, ""] = 0,
    cluster: Int[Array, " text"] | None = None,
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
    clusters = texts if cluster is None else int(jnp.max(cluster)) + 1

    def one(index):
        drawn = jax.random.randint(jax.random.fold_in(key, index), (clusters,), 0, clusters)
        return jnp.zeros(clusters, dtype).at[drawn].add(1)

    weights = jax.vmap(one)(jnp.arange(resamples, dtype=jnp.int32) + jnp.asarray(start, jnp.int32))
    return weights if cluster is None else weights[:, cluster]


def unit_weights(texts: int, dtype=jnp.float32) -> Float[Array, "1 text"]:
    """The sample as observed: the row that gives the point estimate."""
    return jnp.ones((1, texts), dtype)


def leave_one_out_weights(texts: int, dtype=jnp.float32) -> Float[Array, "text text"]:
    """Row t leaves out text t: the jackknife, for acceleration constants and standard errors."""
    return jnp.ones((texts, texts), dtype) - jnp.eye(texts, dtype=dtype)
