"""What the checks share: games and their equilibria, and what a check returns."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from mfgjax.equilibrium import check, solve_equilibrium
from mfgjax.game import Game

EXPERTS = 64
SPREAD = 2.24
"""B0 at the end of the paper's Table 1."""

_solve = jax.jit(jax.vmap(solve_equilibrium))


def qualities(rng, games: int, experts: int = EXPERTS, spread: float | None = SPREAD) -> np.ndarray:
    """Normal qualities; scaled to `max - min = spread` unless it is None."""
    quality = rng.normal(size=(games, experts))
    if spread is not None:
        quality *= spread / np.ptp(quality, axis=-1, keepdims=True)
    return quality - quality.mean(-1, keepdims=True)


def equilibria(quality: np.ndarray, congestion: np.ndarray | float) -> np.ndarray:
    """Loads at equilibrium, temperature 1; every one is certified."""
    congestion = np.broadcast_to(congestion, quality.shape[:1])
    solution = _solve(Game(jnp.asarray(quality), jnp.asarray(congestion)))
    return np.asarray(check(solution).load)


def response(quality: np.ndarray, congestion, load: np.ndarray) -> np.ndarray:
    """The best response `Phi`, temperature 1."""
    return softmax(quality - np.asarray(congestion)[..., None] * load, axis=-1)


def l1(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """L1 distance along experts."""
    return np.abs(a - b).sum(-1)


@dataclasses.dataclass(frozen=True)
class Check:
    """One statement of arXiv 2604.04230 against numbers.

    Attributes:
        name: theorem or lemma.
        statement: what it says.
        rows: one dictionary per setting; `violated` counts games that break the bound.
        verdict: one or two sentences, with the numbers that carry them.
    """

    name: str
    statement: str
    rows: list[dict[str, Any]]
    verdict: str


def share(mask) -> float:
    """Fraction of true entries."""
    return float(sum(map(bool, mask)) / len(mask))
