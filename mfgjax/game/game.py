"""The routing game: tokens of one or several types choose among experts that congest.

A token of type `k` (fraction `w_k` of tokens) values expert `i` at `q^k_i - gamma F(f_i)`, where
`f = sum_k w_k mu^k` is the load and `mu^k` the dispatch fractions of its type, and chooses with
softmax noise of temperature `lambda` (arXiv 2604.04230, Sections 2 and 4):

    mu^k_i = exp((q^k_i - gamma F(f_i))/lambda) / sum_j exp((q^k_j - gamma F(f_j))/lambda).     (1)
"""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mfgjax.game.cost import Cost, Linear


class Game(eqx.Module):
    """One game (1), or a batch of them for `jax.vmap`.

    Without `weight` there is one type and `quality` is `[experts]`; with it, `quality` is
    `[types, experts]`. Leading axes of `quality` are a batch; parameters given without them are
    repeated along them, so that `jax.vmap(solve_equilibrium)(game)` works as it stands.

    The dtype is that of `quality`, float32 or float64; 16-bit logits are taken exactly, as float32.

    Concrete values are checked here and raise `ValueError` with the argument's name. Inside `jit`
    or `vmap` nothing raises on values: the solution of a bad game has status `BAD_INPUT`.

    Attributes:
        quality: value of each expert before congestion, in logits.
        congestion: price per unit of `F(load)`, in logits, either sign.
        temperature: softmax temperature, in logits, > 0.
        weight: fraction of tokens of each type, summing to 1; None for a single type.
        cost: shape `F` of the congestion cost.
    """

    quality: Float[Array, "*batch experts"]
    congestion: Float[Array, "*batch"]
    temperature: Float[Array, "*batch"]
    weight: Float[Array, "*batch types"] | None
    cost: Cost

    def __init__(
        self,
        quality: ArrayLike,
        congestion: ArrayLike,
        temperature: ArrayLike = 1.0,
        weight: ArrayLike | None = None,
        cost: Cost | None = None,
    ):
        quality = jnp.asarray(quality)
        if not jnp.issubdtype(quality.dtype, jnp.floating):
            quality = quality.astype(float)
        if quality.dtype.itemsize < 4:
            quality = quality.astype(jnp.float32)
        core = 1 if weight is None else 2
        if quality.ndim < core or quality.shape[-1] == 0:
            wanted = "[..., experts]" if weight is None else "[..., types, experts]"
            raise ValueError(
                f"quality has shape {quality.shape}; {wanted} is needed with at least one expert"
            )
        batch = quality.shape[:-core]
        cast = lambda leaf: jnp.asarray(leaf).astype(quality.dtype)  # noqa: E731
        self.quality = quality
        self.congestion = _repeat("congestion", cast(congestion), (), batch)
        self.temperature = _repeat("temperature", cast(temperature), (), batch)
        if weight is None:
            self.weight = None
        else:
            self.weight = _repeat("weight", cast(weight), (quality.shape[-2],), batch)
        cost = jax.tree.map(cast, Linear() if cost is None else cost)
        self.cost = jax.tree.map(lambda leaf: _lead(leaf, batch), cost)
        _refuse_bad_values(self)

    @property
    def experts(self) -> int:
        """Number of experts M."""
        return self.quality.shape[-1]

    @property
    def types(self) -> int:
        """Number of token types K."""
        return 1 if self.weight is None else self.quality.shape[-2]


def _repeat(name, leaf, tail, batch):
    """`leaf`, of shape `tail` or `batch + tail`, with the batch axes in front."""
    if leaf.shape not in (tail, batch + tail):
        raise ValueError(f"{name} has shape {leaf.shape}; {tail} or {batch + tail} fits quality")
    return jnp.broadcast_to(leaf, batch + tail)


def _lead(leaf, batch):
    return leaf if leaf.shape[: len(batch)] == batch else jnp.broadcast_to(leaf, batch + leaf.shape)


def _refuse_bad_values(game: Game) -> None:
    """Raises `ValueError` for concrete values that no game can have; passes tracers through."""
    tests = {
        "quality": (game.quality, np.isfinite, "finite"),
        "congestion": (game.congestion, np.isfinite, "finite"),
        "temperature": (game.temperature, lambda t: np.isfinite(t) & (t > 0), "finite and > 0"),
        "weight": (game.weight, lambda w: np.isfinite(w) & (w >= 0), "finite and >= 0"),
    }
    above_zero = tests["temperature"][1:]
    tests |= {name: (getattr(game.cost, name), *above_zero) for name in game.cost.positive}
    refuse_bad_values(tests)
    weight = game.weight
    if weight is not None and not isinstance(weight, Tracer):
        off = np.abs(np.asarray(weight, np.float64).sum(-1) - 1).max()
        if off > weight_tolerance(weight.dtype):
            raise ValueError(f"weight must sum to 1 over types; the largest deviation is {off:.3g}")


def weight_tolerance(dtype) -> float:
    """How far the type weights may be from summing to 1: a thousand roundings."""
    return 1e3 * float(jnp.finfo(dtype).eps)


Test = tuple[Any, Callable[[Any], Any], str]
"""An array (or None), what accepts its values, and what they should be, in words."""


def refuse_bad_values(tests: Mapping[str, Test]) -> None:
    """Raise on the first array that fails its test; tracers and None pass.

    Raises:
        ValueError: naming the array, how many of its values fail, and the first.
    """
    for name, (leaf, accept, wanted) in tests.items():
        if leaf is None or isinstance(leaf, Tracer):
            continue
        good = accept(np.asarray(leaf))
        if not good.all():
            first = tuple(int(i) for i in np.argwhere(~good)[0])
            raise ValueError(
                f"{name} must be {wanted}: {(~good).sum()} of {good.size} values are not, the "
                f"first at {first}. Build the game inside jit or vmap for a status per instance."
            )
