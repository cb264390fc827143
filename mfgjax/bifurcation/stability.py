"""Which router states persist: the Jacobian of the mean-field dynamics.

In units of the decay time and of logits the scores of `ReinforcedRouter` obey

    logits' = quality + feedback * softmax(logits) - logits,                              (1)

whose Jacobian `feedback (diag(load) - load load^T) - 1` is symmetric: eigenvalues are real, no state
oscillates, and a state is stable where the largest is negative. Derived here.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def logit_drift(
    logits: Float[Array, " experts"],
    feedback: Float[Array, ""],
    quality: Float[Array, " experts"],
) -> Float[Array, " experts"]:
    """Right side of (1); zero exactly at the equilibria with congestion `-feedback`."""
    return quality + feedback * jax.nn.softmax(logits) - logits


class LogitDrift(eqx.Module):
    """`logit_drift` of one quality as a function of (logits, feedback), for `trace_branch`."""

    quality: Float[Array, " experts"]

    def __call__(
        self, logits: Float[Array, " experts"], feedback: Float[Array, ""]
    ) -> Float[Array, " experts"]:
        return logit_drift(logits, feedback, self.quality)


def drift_jacobian(
    load: Float[Array, " experts"], feedback: Float[Array, ""]
) -> Float[Array, "experts experts"]:
    """Jacobian of (1) at a state with this load, per decay time."""
    size = load.shape[0]
    spread = jnp.diag(load) - load[:, None] * load[None, :]
    return feedback * spread - jnp.eye(size, dtype=load.dtype)


def growth_rates(
    load: Float[Array, " experts"], feedback: Float[Array, ""]
) -> Float[Array, " experts"]:
    """Rates at which perturbations grow, ascending, per decay time; the last decides stability."""
    return jnp.linalg.eigvalsh(drift_jacobian(load, feedback))


def unstable_directions(
    load: Float[Array, " experts"], feedback: Float[Array, ""]
) -> Int[Array, ""]:
    """Number of growing directions: 0 for a stable state, 1 for the ridge between two basins."""
    return (growth_rates(load, feedback) > 0).sum()
