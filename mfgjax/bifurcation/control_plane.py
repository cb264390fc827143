"""Every equilibrium on a whole plane of feedback strength and asymmetry, by vmap."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from mfgjax.bifurcation.response import SOFTMAX, Response
from mfgjax.bifurcation.two_expert import StateStatus, two_expert_states


class ControlPlane(eqx.Module):
    """Equilibria over a grid, rows strength, columns asymmetry.

    Attributes:
        strength, asymmetry: the axes.
        count: number of equilibria at each point: 3 inside the cusped wedge, 1 outside.
        gap: the three gaps of `TwoExpertStates`, NaN where absent.
        unsolved: number of slots whose root was not reached (0 expected).
    """

    strength: Float[Array, " rows"]
    asymmetry: Float[Array, " columns"]
    count: Int[Array, "rows columns"]
    gap: Float[Array, "rows columns 3"]
    unsolved: Int[Array, ""]


def control_plane(
    strength: Float[Array, " rows"],
    asymmetry: Float[Array, " columns"],
    response: Response = SOFTMAX,
) -> ControlPlane:
    """Solve every point of the plane; rows one after another, columns together (memory of a row)."""

    def row(strength):
        states = jax.vmap(lambda h: two_expert_states(strength, h, response))(asymmetry)
        missed = (states.status != StateStatus.FOUND) & (states.status != StateStatus.ABSENT)
        return states.found.sum(axis=-1), states.gap, missed.sum()

    count, gap, missed = lax.map(row, strength)
    return ControlPlane(strength, asymmetry, count, gap, jnp.sum(missed))
