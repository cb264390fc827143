"""Models of a layer's load, fitted on one set of texts (arXiv 2604.04230, Sections 6.1, 6.3, 6.4).

Every fit minimises the L1 distance on the fitting texts: temperatures through `softmax(q / T)`,
congestion through the best response to the observed load (Definition 3.1, or its K-type form
`sum_k w_k softmax(q^k - gamma f)`); predictions are then the models' own equilibria.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from mfgjax.comparison.distance import l1_distance
from mfgjax.comparison.line_search import search_nonnegative
from mfgjax.equilibrium import check, solve_equilibrium
from mfgjax.estimate import FitStatus, fit_congestion
from mfgjax.game import Game
from mfgjax.token_types.kmeans import TokenTypes

LARGEST_CONGESTION = 1e5
"""Beyond it the equilibrium is uniform to 1e-4, and no solver is certified."""

_solve_batch = jax.jit(jax.vmap(solve_equilibrium))
_fit_batch = jax.jit(partial(fit_congestion, objective="l1", count_minima=False))


def fit_inverse_temperature(quality: np.ndarray, load: np.ndarray) -> float:
    """`1/T >= 0` of the temperature softmax; 0 is the uniform load."""
    return search_nonnegative(
        lambda beta: l1_distance(load, softmax(beta[:, None] * quality, axis=-1))
    )


def fit_shared_congestion(types: TokenTypes, load: np.ndarray) -> float:
    """Congestion >= 0 that all types share."""

    def residual(congestion):
        logits = types.quality[None] - congestion[:, None, None] * load
        response = np.einsum("k,ckm->cm", types.weight, softmax(logits, axis=-1))
        return l1_distance(load, response)

    return search_nonnegative(residual)


def single_type_loads(quality: np.ndarray, load: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Definition 3.1 congestion of each row and the equilibrium there.

    Rows with a uniform load, where congestion is not identified, are solved without congestion; rows
    whose fit has no finite minimiser (a cluster of one token) at `LARGEST_CONGESTION`.
    """
    fit = _fit_batch(jnp.asarray(quality), jnp.asarray(load))
    identified = np.asarray(fit.status) != FitStatus.UNIDENTIFIED
    congestion = np.where(identified, np.asarray(fit.congestion), 0.0)
    congestion = np.minimum(congestion, LARGEST_CONGESTION)
    games = Game(jnp.asarray(quality), jnp.asarray(congestion))
    solved = check(_solve_batch(games), name="layer")
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
    games = Game(jnp.asarray(quality), jnp.asarray(congestion), weight=jnp.asarray(weight))
    solved = check(_solve_batch(games), name="layer")
    return congestion, np.asarray(solved.load)
