"""Models of a layer's load, fitted on one set of texts (arXiv 2604.04230, Sections 6.1, 6.3, 6.4).

Every fit minimises the L1 distance on the fitting texts: temperatures through `softmax(q / T)`,
congestion through the best response to the observed load (Definition 3.1, or its K-type form
`sum_k w_k softmax(q^k - gamma f)`); predictions are then the models' own equilibria.

L1 residuals have several local minima (see `mfgjax.estimate.congestion.l1`), so the baselines' one parameter
is searched globally; the single-type congestion has a certified search of its own.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import logsumexp, softmax

from mfgjax.comparison.distance import l1_distance
from mfgjax.equilibrium import check
from mfgjax.equilibrium.batch import solve_rows
from mfgjax.estimate.congestion.fit import fit_rows
from mfgjax.numerics.status import Status
from mfgjax.token_types.kmeans import TokenTypes, centred, find_types, k_means

LARGEST_CONGESTION = 1e5
"""Beyond it the equilibrium is uniform to 1e-4, and no solver is certified."""
_ROWS = 64
"""Temperatures searched at once: all their candidates are in memory together."""


def fit_models(
    cluster_logits: np.ndarray,
    fit_logits: np.ndarray,
    fit_dispatch: np.ndarray,
    types: tuple[int, ...],
    seed: int = 0,
    centres: Mapping[int, Sequence[np.ndarray]] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Fit them all.

    Args:
        cluster_logits: `[token, layer, expert]`, texts that k-means sees.
        fit_logits: the same of the fitting texts.
        fit_dispatch: 1 where a token of the fitting texts chose the expert.
        types: numbers of token types.
        seed: of k-means.
        centres: where k-means starts instead, by number of types and layer (`cluster_centres`).

    Returns:
        By name of the model, its prediction `[layer, expert]`; and the congestion `[layer]` of the
        models that have one for all tokens.
    """
    quality = np.swapaxes(centred(fit_logits), 0, 1).mean(1)
    total = fit_dispatch.sum(0)
    load = total / total.sum(-1, keepdims=True)
    found = {
        k: [
            find_types(
                cluster_logits[:, i],
                fit_logits[:, i],
                fit_dispatch[:, i],
                k,
                seed,
                **({} if centres is None else {"starts": 0, "centres": centres[k][i]}),
            )
            for i in range(len(load))
        ]
        for k in types
    }
    experts = load.shape[-1]
    # One batch for the single-type fits of all layers and all clusters: one compilation.
    rows = np.concatenate([quality, *(t.quality for own in found.values() for t in own)])
    seen = np.concatenate([load, *(t.load for own in found.values() for t in own)])
    single_congestion, single = single_type_loads(rows, seen)
    soft = softmax(fit_inverse_temperature(rows, seen)[:, None] * rows, axis=-1)
    layers = len(load)
    loads = {
        "uniform": np.full_like(load, 1 / experts),
        "seen load": load,
        "temperature softmax": soft[:layers],
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
        for name, alone in (("softmax", soft), ("MFG", single)):
            clusters = alone[at : at + layers * number].reshape(layers, number, experts)
            loads[f"cluster {name} {number}"] = np.einsum("lk,lkm->lm", weight, clusters)
        at += layers * number
    return loads, congestion


def cluster_centres(
    logits: np.ndarray, types: tuple[int, ...], seed: int = 0
) -> dict[int, list[np.ndarray]]:
    """Centres of k-means by number of types and layer, for refits to start from.

    Args:
        logits: `[token, layer, expert]`.
        types: numbers of token types.
        seed: of k-means.
    """
    points = np.swapaxes(centred(logits), 0, 1)
    return {k: [k_means(own, k, seed).cluster_centers_ for own in points] for k in types}


def fit_inverse_temperature(quality: np.ndarray, load: np.ndarray) -> np.ndarray:
    """`1/T >= 0` of the temperature softmax of each row; 0 is the uniform load."""

    def search(quality, load):
        return search_nonnegative(
            lambda beta: l1_distance(
                load[:, None], softmax(beta[..., None] * quality[:, None], axis=-1)
            )
        )

    starts = range(0, len(load), _ROWS)
    return np.concatenate([search(quality[i : i + _ROWS], load[i : i + _ROWS]) for i in starts])


def fit_shared_congestion(types: TokenTypes, load: np.ndarray) -> float:
    """Congestion >= 0 that all types share."""

    def residual(congestion):
        logits = types.quality[None] - congestion[:, None, None] * load
        response = np.einsum("k,ckm->cm", types.weight, softmax(logits, axis=-1))
        return l1_distance(load, response)

    return float(search_nonnegative(residual))


def single_type_loads(quality: np.ndarray, load: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Definition 3.1 congestion of each row and the equilibrium there.

    Rows with a uniform load, where congestion is not identified, are solved without congestion; rows
    whose fit has no finite minimiser (a cluster of one token) at `LARGEST_CONGESTION`.
    """
    fit = fit_rows(quality, load, "l1")
    congestion = np.where(fit.status != Status.UNIDENTIFIED, fit.congestion, 0.0)
    congestion = np.minimum(congestion, LARGEST_CONGESTION)
    solved = check(solve_rows(quality, congestion), name="layer")
    return congestion, np.asarray(solved.load)


def multi_type_loads(types: list[TokenTypes], load: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shared congestion and coupled equilibrium (Theorem 4.4) of each row.

    Args:
        types: of each row; rows may differ in their number of types.
        load: `[row, expert]`, on the fitting texts.
    """
    congestion = np.array(
        [fit_shared_congestion(own, row) for own, row in zip(types, load, strict=True)]
    )
    most = max(len(own.weight) for own in types)
    # Types of weight 0 change nothing, and let one compiled solve serve every number of types.
    weight = np.zeros((len(types), most))
    quality = np.zeros((len(types), most, load.shape[-1]))
    for row, own in enumerate(types):
        weight[row, : len(own.weight)] = own.weight
        quality[row, : len(own.weight)] = own.quality
    solved = check(solve_rows(quality, congestion, weight), name="layer")
    return congestion, np.asarray(solved.load)


def sinkhorn_choices(
    logits: np.ndarray, top_k: int, *, temperature: float = 1.0, iterations: int = 50
) -> np.ndarray:
    """Top-K of the entropic transport plan between tokens and experts with equal shares.

    BASE layers assign tokens so that every expert gets equally many (Lewis et al. 2021, arXiv
    2103.16716): as a prediction of load that is the uniform model, whatever the logits. A Sinkhorn
    router balances the scores by a few scalings and then takes the top-K of the balanced plan (Clark
    et al. 2022, arXiv 2202.01169, S-BASE); its load is close to uniform but not equal to it.

    Args:
        logits: `[token, expert]`.
        top_k: experts per token.
        temperature: entropic regularisation, in logits.
        iterations: Sinkhorn scalings, in the log domain.

    Returns:
        1 where a token is dispatched to an expert, `[token, expert]`.
    """
    score = np.asarray(logits, np.float64) / temperature
    tokens, experts = score.shape
    price = np.zeros(experts)
    for _ in range(iterations):
        own = np.asarray(logsumexp(score - price, axis=1))[:, None]
        price += np.asarray(logsumexp(score - price - own, axis=0)) - np.log(tokens / experts)
    chosen = np.argpartition(price - score, top_k - 1, axis=1)[:, :top_k]
    dispatch = np.zeros_like(score)
    np.put_along_axis(dispatch, chosen, 1.0, axis=1)
    return dispatch


def search_nonnegative(
    residual: Callable[[np.ndarray], np.ndarray],
    *,
    low: float = 1e-3,
    high: float = 1e4,
    points: int = 281,
    rounds: int = 6,
) -> np.ndarray:
    """Minimiser of `residual` over 0 and `[low, high]`, to a relative width of about 1e-8, `[*batch]`.

    Args:
        residual: maps candidates, `[candidate]` at first and `[*batch, candidate]` then, to their
            residuals `[*batch, candidate]`.
        low: smallest positive candidate.
        high: largest candidate.
        points: of each grid, logarithmic.
        rounds: grids, each spanning the neighbours of the best point of the one before.
    """
    found = grid = np.concatenate([[0.0], np.geomspace(low, high, points)])
    for _ in range(rounds):
        best = residual(grid).argmin(-1)[..., None]
        grid = np.broadcast_to(grid, (*best.shape[:-1], grid.shape[-1]))
        near = np.clip(best + np.array([0, -1, 1]), 0, grid.shape[-1] - 1)
        found, left, right = np.moveaxis(np.take_along_axis(grid, near, -1), -1, 0)
        grid = np.concatenate([found[..., None], np.linspace(left, right, 41, axis=-1)], -1)
    return found
