"""The model: a softmax gate in x chooses an expert, the expert is a Gaussian line in x.

    y | x ~ sum_i softmax_i(sigma(weight_i . x) / temperature + offset_i) N(slope_i . x + intercept_i, variance_i).

In the letters of arXiv 2401.13875: weight is b1, offset b0/tau, temperature tau; slope, intercept and
variance are a, b and nu. A homogeneous gate (`gates.py`) has weight b1/tau (tau^(1/p) for degree p).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfgjax.gaussian_moe.gates import find_gate
from mfgjax.gaussian_moe.layout import AnyArray, Layout, Pieces


class Mixture(eqx.Module):
    """One mixture, or a batch of them on leading axes. The methods are of one: batch with `jax.vmap`.

    Attributes:
        weight: of the gate, per unit of x. Relative to the last expert's under a linear gate.
        offset: of the gate's logits, relative to the last expert's.
        temperature: NaN where the gate identifies none.
        slope, intercept: of the experts' means, in units of y.
        variance: of the experts, in units of y squared.
        gate: name of the activation, one of `GATES`. Static.
    """

    weight: Float[AnyArray, "*batch expert feature"]
    offset: Float[AnyArray, "*batch expert"]
    temperature: Float[AnyArray, "*batch"]
    slope: Float[AnyArray, "*batch expert feature"]
    intercept: Float[AnyArray, "*batch expert"]
    variance: Float[AnyArray, "*batch expert"]
    gate: str = eqx.field(static=True, default="linear")

    @property
    def experts(self) -> int:
        return self.offset.shape[-1]

    def log_gate(self, x: Float[AnyArray, "row feature"]) -> Float[Array, "row expert"]:
        """Logarithm of each expert's probability at each x."""
        gate = find_gate(self.gate)
        score = gate.value(jnp.asarray(x @ self.weight.T))
        if gate.degree is None and self.experts > 1:
            score = score / self.temperature
        return jax.nn.log_softmax(score + self.offset[None], axis=-1)

    def expert_mean(self, x: Float[AnyArray, "row feature"]) -> Float[Array, "row expert"]:
        return jnp.asarray(x @ self.slope.T + self.intercept[None])

    def mean(self, x: Float[AnyArray, "row feature"]) -> Float[Array, " row"]:
        """Expectation of y at each x."""
        return (jnp.exp(self.log_gate(x)) * self.expert_mean(x)).sum(-1)

    def log_density(
        self, x: Float[AnyArray, "row feature"], y: Float[AnyArray, " row"]
    ) -> Float[Array, " row"]:
        """Log density of y given x, nats. Differentiable in everything."""
        away = (y[:, None] - self.expert_mean(x)) ** 2 / self.variance[None]
        expert = -0.5 * (away + jnp.log(2 * jnp.pi * self.variance)[None])
        return jax.nn.logsumexp(self.log_gate(x) + expert, axis=-1)

    def sample(self, key: Array, x: Float[AnyArray, "row feature"]) -> Float[Array, " row"]:
        """One y for each x."""
        choose, noise = jax.random.split(key)
        chosen = jax.random.categorical(choose, self.log_gate(x), axis=-1)
        mean = jnp.take_along_axis(self.expert_mean(x), chosen[:, None], -1)[:, 0]
        spread = jnp.sqrt(self.variance)[chosen]
        return mean + spread * jax.random.normal(noise, mean.shape, mean.dtype)


def layout_of(mixture: Mixture, *, raw: bool = False) -> Layout:
    """What is free in a mixture; `raw`: also what its gate does not identify."""
    return Layout(mixture.gate, mixture.experts, mixture.slope.shape[-1], raw)


def to_vector(layout: Layout, mixture: Mixture) -> Float[Array, " parameter"]:
    """Free parameters of one mixture."""
    known = mixture.temperature > 0
    return layout.pack(
        Pieces(
            jnp.asarray(mixture.weight),
            jnp.log(jnp.where(known, mixture.temperature, 1)),
            jnp.asarray(mixture.offset),
            jnp.asarray(mixture.slope),
            jnp.asarray(mixture.intercept),
            jnp.log(mixture.variance),
        )
    )


def to_mixture(layout: Layout, vector: Float[Array, " parameter"]) -> Mixture:
    """One mixture of its free parameters."""
    piece = layout.unpack(vector)
    temperature = jnp.exp(piece.log_temperature)
    if not layout.free_temperature:
        temperature = jnp.full_like(temperature, jnp.nan)
    return Mixture(
        piece.weight,
        piece.offset,
        temperature,
        piece.slope,
        piece.intercept,
        jnp.exp(piece.log_variance),
        layout.gate_name,
    )


def mirror(layout: Layout) -> Float[np.ndarray, "parameter parameter"]:
    """What takes parameters to the mirror image that two experts have under an odd gate, `w_1, w_2` to
    `-w_2, -w_1`: the same density. The identity for other mixtures."""
    image = np.eye(layout.parameters)
    if layout.gate.odd and layout.experts == 2:
        first, second = layout.of("weight").reshape(2, -1)
        image[first, first] = image[second, second] = 0
        image[first, second] = image[second, first] = -1
    return image
