"""Every model of the static comparison, fitted on one set of texts."""

import numpy as np
from scipy.special import softmax

from mfgjax.comparison.models import fit_inverse_temperature, multi_type_loads, single_type_loads
from mfgjax.token_types import TokenTypes, centred, find_types


def fit_models(
    cluster_logits: np.ndarray,
    fit_logits: np.ndarray,
    fit_dispatch: np.ndarray,
    types: tuple[int, ...],
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Fit them all.

    Args:
        cluster_logits: `[token, layer, expert]`, texts that k-means sees.
        fit_logits: the same of the fitting texts.
        fit_dispatch: 1 where a token of the fitting texts chose the expert.
        types: numbers of token types.
        seed: of k-means.

    Returns:
        By name of the model, its prediction `[layer, expert]`; and the congestion `[layer]` of the
        models that have one for all tokens.
    """
    quality = np.swapaxes(centred(fit_logits), 0, 1).mean(1)
    total = fit_dispatch.sum(0)
    load = total / total.sum(-1, keepdims=True)
    found = {
        k: [
            find_types(cluster_logits[:, i], fit_logits[:, i], fit_dispatch[:, i], k, seed)
            for i in range(len(load))
        ]
        for k in types
    }
    experts = load.shape[-1]
    beta = [fit_inverse_temperature(q, f) for q, f in zip(quality, load, strict=True)]
    # One batch for the single-type fits of all layers and all clusters: one compilation.
    rows = [quality, *(t.quality for own in found.values() for t in own)]
    seen = [load, *(t.load for own in found.values() for t in own)]
    single_congestion, single = single_type_loads(np.concatenate(rows), np.concatenate(seen))
    layers = len(load)
    loads = {
        "uniform": np.full_like(load, 1 / experts),
        "seen load": load,
        "temperature softmax": softmax(np.array(beta)[:, None] * quality, axis=-1),
        "MFG": single[:layers],
    }
    congestion = {"MFG": single_congestion[:layers]}
    if not found:
        return loads, congestion
    every = [t for own in found.values() for t in own]
    shared, coupled = multi_type_loads(every, np.tile(load, (len(found), 1)))
    at = layers
    for block, (number, own) in enumerate(found.items()):
        rows_of_block = slice(block * layers, (block + 1) * layers)
        loads[f"multi-type {number}"] = coupled[rows_of_block]
        congestion[f"multi-type {number}"] = shared[rows_of_block]
        weight = np.stack([t.weight for t in own])
        alone = single[at : at + layers * number].reshape(layers, number, experts)
        at += layers * number
        loads[f"cluster softmax {number}"] = np.stack([_cluster_softmax(t) for t in own])
        loads[f"cluster MFG {number}"] = np.einsum("lk,lkm->lm", weight, alone)
    return loads, congestion


def _cluster_softmax(types: TokenTypes) -> np.ndarray:
    beta = [fit_inverse_temperature(q, f) for q, f in zip(types.quality, types.load, strict=True)]
    return types.weight @ softmax(np.array(beta)[:, None] * types.quality, axis=-1)
