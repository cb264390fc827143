"""The routing game over a stack of layers: what a token chooses decides how it is valued next.

A token leaves layer l-1 at expert i and values expert j of layer l at `q^l(j|i) - gamma_l f^l_j`, `f^l`
the layer's load. A token that looks ahead counts what follows (backward), and loads follow from the
policies (forward):

    V^l(i)    = lambda log sum_j exp((q^l(j|i) - p^l_j + V^(l+1)(j)) / lambda),     V^L = 0,      (1)
    pi^l(j|i) = exp((q^l(j|i) - p^l_j + V^(l+1)(j) - V^l(i)) / lambda),                          (2)
    f^l_j     = sum_i f^(l-1)_i pi^l(j|i),              at equilibrium  p^l = gamma_l f^l.        (3)

This is the coupled L-layer system of arXiv 2604.04230, Theorem 5.8, made precise: its continuation
cost is `w^l_j = -V^(l+1)(j)`, up to a constant. The paper averages downstream values with a policy
that does not see where the token comes from; here it does see it, which keeps the game convex.

(1) to (3) are one softmax over paths of experts, so the equilibrium is the minimiser of

    D(p) = sum_l |p^l|^2 / (2 gamma_l) + V^0(p),                                                  (4)

convex for every `gamma >= 0`: it exists and is unique. [derived]
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import logsumexp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mfgjax.game.game import refuse_bad_values
from mfgjax.game.precision import full_precision


class LayeredGame(eqx.Module):
    """One stack of layers; batch with `jax.vmap` (build the batch inside it, or stack with tree.map).

    Attributes:
        entry: quality of each expert of the first layer, in logits.
        quality: of each expert of every later layer, by the expert that the token comes from. A
            constant added to a row changes no choice of that layer, but does change the value of
            the expert before it: raw router logits do not fix it, so centre them if they are yours.
        congestion: price per unit of load, in logits, >= 0.
        temperature: softmax temperature of all layers, in logits, > 0.
    """

    entry: Float[Array, " expert"]
    quality: Float[Array, "later previous expert"]
    congestion: Float[Array, " layer"]
    temperature: Float[Array, ""]

    def __init__(
        self,
        entry: ArrayLike,
        quality: ArrayLike,
        congestion: ArrayLike,
        temperature: ArrayLike = 1.0,
    ):
        """Concrete values are checked; inside `jit` a bad game has the status `BAD_INPUT`.

        Raises:
            ValueError: shapes that do not fit each other, or values that are not finite,
                `congestion < 0` or `temperature <= 0`.
        """
        entry, quality = jnp.asarray(entry), jnp.asarray(quality)
        cast = lambda leaf: jnp.asarray(leaf).astype(entry.dtype)  # noqa: E731
        experts = entry.shape[-1] if entry.ndim else 0
        if entry.ndim != 1 or quality.ndim != 3 or quality.shape[1:] != (experts, experts):
            raise ValueError(
                f"entry has shape {entry.shape} and quality {quality.shape}; [expert] and "
                "[later layer, previous expert, expert] are needed"
            )
        layers = quality.shape[0] + 1
        congestion = cast(congestion)
        if congestion.shape not in ((), (layers,)):
            raise ValueError(f"congestion has shape {congestion.shape}; () or ({layers},) fits")
        self.entry, self.quality = entry, cast(quality)
        self.congestion = jnp.broadcast_to(congestion, (layers,))
        self.temperature = cast(temperature)
        refuse_bad_values(
            {
                "entry": (self.entry, np.isfinite, "finite"),
                "quality": (self.quality, np.isfinite, "finite"),
                "congestion": (
                    self.congestion,
                    lambda c: np.isfinite(c) & (c >= 0),
                    "finite and >= 0",
                ),
                "temperature": (
                    self.temperature,
                    lambda t: np.isfinite(t) & (t > 0),
                    "finite and > 0",
                ),
            }
        )

    @property
    def experts(self) -> int:
        """Experts of each layer, M."""
        return self.entry.shape[-1]

    @property
    def layers(self) -> int:
        """Layers of the stack, L."""
        return self.quality.shape[0] + 1

    @property
    def stacked(self) -> Float[Array, "layer previous expert"]:
        """Qualities of all layers; the first layer's do not depend on where a token comes from."""
        first = jnp.broadcast_to(self.entry, (1, self.experts, self.experts))
        return jnp.concatenate([first, self.quality])


class Flow(eqx.Module):
    """What tokens do at given prices, and what they expect.

    Attributes:
        policy: `pi^l(j|i)`; rows sum to 1.
        load: dispatch fractions of each layer, each summing to 1.
        continuation: `w^l_j = -V^(l+1)(j)`: cost of what follows expert j, in logits; 0 in the last
            layer.
        value: `V^0`, in logits.
    """

    policy: Float[Array, "layer previous expert"]
    load: Float[Array, "layer expert"]
    continuation: Float[Array, "layer expert"]
    value: Float[Array, ""]


@full_precision
def sweep(game: LayeredGame, price: Float[Array, "layer expert"]) -> Flow:
    """Backward values (1), policies (2) and forward loads (3) at `price`; O(L M^2), differentiable."""

    def back(after, layer):
        quality, price = layer
        logits = (quality + (after - price)[None, :]) / game.temperature
        value = game.temperature * logsumexp(logits, axis=-1)
        policy = jnp.exp(logits - value[:, None] / game.temperature)
        return value, (policy, -after)

    def forth(arrived, policy):
        load = arrived @ policy
        return load, load

    end = jnp.zeros_like(game.entry)
    value, (policy, continuation) = lax.scan(back, end, (game.stacked, price), reverse=True)
    _, load = lax.scan(forth, jnp.full_like(game.entry, 1 / game.experts), policy)
    return Flow(policy, load, continuation, value[0])


@full_precision
def load_covariance(flow: Flow) -> Float[Array, "layer expert layer expert"]:
    """Covariance, over tokens, of being at expert j of layer l and at expert k of layer m.

    Minus the temperature times the Jacobian of loads in prices, so the Hessian of (4) follows.
    O(L^2 M^3) in time, O(L^2 M^2) in memory.
    """
    layers, experts = flow.load.shape
    start = flow.load[:, :, None] * jnp.eye(experts, dtype=flow.load.dtype)[None]

    def go(joint, layer):
        index, policy = layer
        began = (jnp.arange(layers) == index)[:, None, None]
        joint = jnp.where(began, start, joint @ policy[None])
        return joint, joint

    _, joint = lax.scan(go, jnp.zeros_like(start), (jnp.arange(layers), flow.policy))
    joint = joint.transpose(1, 2, 0, 3)  # from layer, expert; at layer (not before `from`), expert
    earlier = jnp.arange(layers)[:, None] < jnp.arange(layers)[None, :]
    earlier = earlier[:, None, :, None]
    joint = jnp.where(earlier, joint, 0) + jnp.where(earlier, joint, 0).transpose(2, 3, 0, 1)
    same = jnp.eye(layers, dtype=joint.dtype)[:, None, :, None] * start[:, :, None, :]
    return joint + same - flow.load[:, :, None, None] * flow.load[None, None]
