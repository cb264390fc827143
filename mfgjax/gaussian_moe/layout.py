"""The free parameters of a mixture as one vector, and what a change of units does to them.

The likelihood of one observation sees the parameters through a few local scalars: the scores z_i, the
logarithm t of the temperature, the offsets c_i, the means m_i and log variances v_i of the experts. A
parameter is a local scalar times a feature of x (or times 1), so that gradient and Hessian of any number
of observations are those of the local scalars, summed against products of features.

A linear gate is kept relative to the last expert: adding one vector to all weights and one number to all
offsets changes no probability.
"""

import dataclasses
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfgjax.gaussian_moe.gates import Gate, find_gate

AnyArray = Array | np.ndarray


class Pieces(NamedTuple):
    """The parameters by kind, with what is fixed filled in; variances and temperature as logarithms."""

    weight: Float[Array, "expert feature"]
    log_temperature: Float[Array, ""]
    offset: Float[Array, " expert"]
    slope: Float[Array, "expert feature"]
    intercept: Float[Array, " expert"]
    log_variance: Float[Array, " expert"]


class Units(NamedTuple):
    """Origin and unit of x and y: the fit works on `(x - x_shift) / x_unit`."""

    x_shift: Float[Array, " feature"]
    x_unit: Float[Array, " feature"]
    y_shift: Float[Array, ""]
    y_unit: Float[Array, ""]


def inverse_units(units: Units) -> Units:
    """Those that take a vector back."""
    return Units(
        -units.x_shift / units.x_unit,
        1 / units.x_unit,
        -units.y_shift / units.y_unit,
        1 / units.y_unit,
    )


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which parameters are free, and in which order. Hashable: static under jit.

    Attributes:
        gate_name, experts, features: of the model.
        raw: also free what is not identified, all weights and the temperature, to show that it is not.
    """

    gate_name: str
    experts: int
    features: int
    raw: bool = False

    @property
    def gate(self) -> Gate:
        return find_gate(self.gate_name)

    @property
    def relative(self) -> bool:
        """Whether weights are relative to the last expert's, and offsets part of the score."""
        return self.experts == 1 or (self.gate_name == "linear" and not self.raw)

    @property
    def free_temperature(self) -> bool:
        return self.experts > 1 and (self.raw or self.gate.degree is None)

    @cached_property
    def table(self) -> tuple[tuple[str, int, int], ...]:
        """Of each parameter: name, local scalar, feature (`features` stands for the constant 1)."""
        k, d = self.experts, self.features
        rows = []
        scores = k - 1 if self.relative else k
        rows += [(f"weight[{i},{j}]", i, j) for i in range(scores) for j in range(d)]
        if self.free_temperature:
            rows.append(("log temperature", scores, d))
        first = 0 if self.relative else scores + self.free_temperature
        rows += [(f"offset[{i}]", first + i, d) for i in range(k - 1)]
        means = self.gate_scalars
        rows += [(f"slope[{i},{j}]", means + i, j) for i in range(k) for j in range(d)]
        rows += [(f"intercept[{i}]", means + i, d) for i in range(k)]
        rows += [(f"log variance[{i}]", means + k + i, d) for i in range(k)]
        return tuple(rows)

    @property
    def gate_scalars(self) -> int:
        k = self.experts
        return k - 1 if self.relative else 2 * k - 1 + self.free_temperature

    @property
    def scalars(self) -> int:
        return self.gate_scalars + 2 * self.experts

    @property
    def parameters(self) -> int:
        return len(self.table)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(row[0] for row in self.table)

    @property
    def scalar(self) -> np.ndarray:
        return np.array([row[1] for row in self.table], int)

    @property
    def feature(self) -> np.ndarray:
        return np.array([row[2] for row in self.table], int)

    def of(self, kind: str) -> np.ndarray:
        """Places of the parameters of one kind, by the first word of their name."""
        return np.array([i for i, name in enumerate(self.names) if name.startswith(kind)], int)

    def unpack(self, vector: Float[Array, " parameter"]) -> Pieces:
        k, d = self.experts, self.features

        def filled(kind, shape):
            taken = vector[self.of(kind)]
            missing = np.prod(shape, dtype=int) - len(taken)
            return jnp.concatenate([taken, jnp.zeros(missing, vector.dtype)]).reshape(shape)

        return Pieces(
            filled("weight", (k, d)),
            filled("log temperature", ()),
            filled("offset", (k,)),
            filled("slope", (k, d)),
            filled("intercept", (k,)),
            filled("log variance", (k,)),
        )

    def pack(self, pieces: Pieces) -> Float[Array, " parameter"]:
        """The free ones of `pieces`; gates are made relative to the last expert."""
        weight, offset = pieces.weight, pieces.offset
        offset = offset - offset[-1:]
        if self.relative:
            weight = (weight - weight[-1:])[:-1]
        temperature = (
            jnp.atleast_1d(pieces.log_temperature) if self.free_temperature else offset[:0]
        )
        return jnp.concatenate(
            [
                weight.reshape(-1),
                temperature,
                offset[:-1],
                pieces.slope.reshape(-1),
                pieces.intercept,
                pieces.log_variance,
            ]
        )

    def in_units(
        self, vector: Float[Array, " parameter"], units: Units
    ) -> Float[Array, " parameter"]:
        """The same density with x and y in their own units; affine in `vector`."""
        found = self.unpack(vector)
        weight, slope = (a / units.x_unit[None] for a in (found.weight, found.slope))
        return self.pack(
            Pieces(
                weight,
                found.log_temperature,
                found.offset - (weight @ units.x_shift if self.relative else 0),
                units.y_unit * slope,
                units.y_shift + units.y_unit * (found.intercept - slope @ units.x_shift),
                found.log_variance + 2 * jnp.log(units.y_unit),
            )
        )

    def change_of_units(self, units: Units) -> Float[Array, "parameter parameter"]:
        """The matrix of `in_units`."""
        zero = jnp.zeros(self.parameters, units.x_unit.dtype)
        return jax.jacfwd(lambda v: self.in_units(v, units))(zero)
