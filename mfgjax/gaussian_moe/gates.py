"""What a gate does to the score `weight . x` before the temperature divides it: sigma and two derivatives.

    logit_i = sigma(weight_i . x) / temperature + offset_i.

Where sigma is homogeneous, `sigma(s z) = s^p sigma(z)`, the weights times s and the temperature times s^p
give the same density for every s > 0: no sample tells one from the other, and `temperature` is fixed at 1
inside such a gate. Identity (p = 1, the dense-to-sparse gate of arXiv 2401.13875), ReLU and powers are of
this kind; sigmoid, tanh, GELU and softplus are not, and their temperature can be estimated.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

Function = Callable[[Float[Array, "*any"]], Float[Array, "*any"]]


@dataclasses.dataclass(frozen=True)
class Gate:
    """An activation.

    Attributes:
        name: as it is asked for.
        value: sigma, elementwise.
        degree: p where sigma is homogeneous of degree p, else None.
        odd: sigma minus a constant is odd. Two experts then have a mirror image of the same density:
            weights (w_1, w_2) and (-w_2, -w_1).
    """

    name: str
    value: Function
    degree: float | None = None
    odd: bool = False

    def slope(self, z: Float[Array, "*any"]) -> Float[Array, "*any"]:
        """Derivative of sigma."""
        return jax.jvp(self.value, (z,), (jnp.ones_like(z),))[1]

    def curvature(self, z: Float[Array, "*any"]) -> Float[Array, "*any"]:
        """Second derivative."""
        return jax.jvp(self.slope, (z,), (jnp.ones_like(z),))[1]


GATES: dict[str, Gate] = {
    gate.name: gate
    for gate in (
        Gate("linear", lambda z: z, degree=1),
        Gate("relu", jax.nn.relu, degree=1),
        Gate("square", jnp.square, degree=2),
        Gate("sigmoid", jax.nn.sigmoid, odd=True),
        Gate("tanh", jnp.tanh, odd=True),
        Gate("gelu", lambda z: z * norm.cdf(z)),
        Gate("softplus", jax.nn.softplus),
    )
}
"""Every gate by name."""


def find_gate(name: str) -> Gate:
    """The gate of that name.

    Raises:
        ValueError: there is none; the message lists them.
    """
    if name not in GATES:
        raise ValueError(f"no gate {name!r}: there are {', '.join(GATES)}")
    return GATES[name]


def why_unidentified(gate: str, experts: int) -> str:
    """Why the raw temperature of such a gate has no estimate; empty where it can have one."""
    if experts == 1:
        return "one expert has no gate, and so no temperature"
    degree = find_gate(gate).degree
    if degree is None:
        return ""
    power = "s" if degree == 1 else f"s^{degree:g}"
    inside = "b0 and temperature" if degree == 1 else f"temperature and b0 times {power}"
    scaled = f"b1, {inside} times s" if degree == 1 else f"b1 times s, {inside}"
    return (
        f"the {gate} gate is homogeneous: {scaled} leave the density as it is for every s > 0, so that "
        "only weight and offset, which hold the temperature, are identified"
    )
