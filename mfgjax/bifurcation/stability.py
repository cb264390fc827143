"""Which router states persist: the Jacobian of the mean-field dynamics.

In units of the decay time and of logits the scores of `ReinforcedRouter` obey

    logits' = quality + feedback * softmax(logits) - logits,                              (1)

whose Jacobian `feedback (diag(load) - load load^T) - 1` is symmetric: eigenvalues are real, no state
oscillates, and a state is stable where the largest is negative. Derived here.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class LogitDrift(eqx.Module):
    """Right side of (1) for one quality, as a function of (logits, feedback) for `trace_branch`.

    Zero exactly at the equilibria with congestion `-feedback`.
    """

    quality: Float[Array, " experts"]

    def __call__(
        self, logits: Float[Array, " experts"], feedback: Float[Array, ""]
    ) -> Float[Array, " experts"]:
        return self.quality + feedback * jax.nn.softmax(logits) - logits


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
