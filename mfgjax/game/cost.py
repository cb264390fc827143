"""Congestion costs: how the price of an expert grows with its load.

An expert with load `f` costs `congestion * F(f)`. Each class here is one shape `F`, nondecreasing
on `[0, limit)`; all arrays inside are parameters and carry derivatives. For a convex potential
(unique equilibrium, certificates) `F` only has to be nondecreasing and `congestion >= 0`.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)


class Cost(eqx.Module):
    """A congestion cost `F`, applied to each expert's load (a fraction, no unit)."""

    positive: ClassVar[tuple[str, ...]] = ()  # parameters that must be > 0

    def __call__(self, load: Float[Array, " experts"]) -> Float[Array, " experts"]:
        """`F(load)`, in units of quality per unit of congestion."""
        raise NotImplementedError

    def integral(self, load: Float[Array, " experts"]) -> Float[Array, " experts"]:
        """`int_0^load F`, by 24-point Gauss-Legendre unless a subclass knows it in closed form."""
        half = 0.5 * load[..., None]
        nodes = jnp.asarray(NODES, load.dtype)
        values = jax.vmap(self, in_axes=-1, out_axes=-1)(half * (1 + _row(nodes, half.ndim)))
        return (half * values * _row(jnp.asarray(WEIGHTS, load.dtype), half.ndim)).sum(-1)

    def slope(self, load: Float[Array, " experts"]) -> Float[Array, " experts"]:
        """`F'(load)`, by forward-mode differentiation unless a subclass knows it."""
        return jax.jvp(self, (load,), (jnp.ones_like(load),))[1]

    def limit(self, load: Float[Array, " experts"]) -> Float[Array, " experts"]:
        """Loads must stay below this; infinity where `F` is finite everywhere."""
        return jnp.full_like(load, jnp.inf)

    def offset(self, load: Float[Array, " experts"]) -> Float[Array, " experts"]:
        """Load subtracted inside `F`, if any: rounding there scales with it, not with `load`."""
        return jnp.zeros_like(load)


class Linear(Cost):
    """`F(f) = f`: the paper's game (arXiv 2604.04230, Section 2)."""

    def __call__(self, load):
        return load

    def integral(self, load):
        return 0.5 * load**2

    def slope(self, load):
        return jnp.ones_like(load)


class Power(Cost):
    """`F(f) = f^exponent` with `exponent > 0`: the BPR delay curve of road traffic is 4."""

    positive: ClassVar[tuple[str, ...]] = ("exponent",)

    exponent: Float[Array, "*batch"] = eqx.field(converter=jnp.asarray)

    def __call__(self, load):
        return load**self.exponent

    def integral(self, load):
        return load ** (1 + self.exponent) / (1 + self.exponent)


class CapacityBarrier(Cost):
    """`F(f) = f / (1 - f/capacity)`: grows without bound as a load nears its capacity.

    Attributes:
        capacity: largest load of an expert (a fraction), one number or one per expert. The game
            is feasible only if the capacities sum to more than 1.
    """

    positive: ClassVar[tuple[str, ...]] = ("capacity",)

    capacity: Float[Array, "*batch"] = eqx.field(converter=jnp.asarray)

    def __call__(self, load):
        return load / (1 - load / self.capacity)

    def integral(self, load):
        room = load / self.capacity
        return self.capacity**2 * (-jnp.log1p(-room) - room)

    def limit(self, load):
        return jnp.broadcast_to(self.capacity, load.shape)


class Softplus(Cost):
    """`F(f) = log(1 + exp(sharpness (f - threshold))) / sharpness`: free below a threshold.

    Attributes:
        threshold: load (a fraction) from which congestion is felt.
        sharpness: inverse width of the bend, per unit of load, > 0.
    """

    positive: ClassVar[tuple[str, ...]] = ("sharpness",)

    threshold: Float[Array, "*batch"] = eqx.field(converter=jnp.asarray)
    sharpness: Float[Array, "*batch"] = eqx.field(converter=jnp.asarray)

    def __call__(self, load):
        return jax.nn.softplus(self.sharpness * (load - self.threshold)) / self.sharpness

    def offset(self, load):
        return jnp.broadcast_to(jnp.abs(self.threshold), load.shape)


class UserCost(Cost):
    """A user's own cost: `F(f) = function(load, parameters)`.

    Attributes:
        function: elementwise, nondecreasing in `load` on `[0, inf)` and JAX-differentiable.
            Static: a new function object recompiles. Certificates assume that it is computed to
            a few units in the last place of `F` and of `load * F'`.
        parameters: any pytree of arrays; differentiable.
    """

    function: Callable[[Array, Any], Array] = eqx.field(static=True)
    parameters: Any = None

    def __call__(self, load):
        return self.function(load, self.parameters)


def _row(vector, ndim):
    """`vector` along the last of `ndim` axes (rank promotion is not relied on)."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)
