"""Smearing of the two-expert threshold by finite steps and batches.

One step of the rule moves the scaled gap by `e (strength u - z + H)` with `e = step_size * decay` and
`u` the load gap of the batch, of mean `g(z)` and variance `(1 - g(z)^2) / batch_size`. For small `e` this
is the diffusion `dz = -V'(z) dt + sqrt(D(z)) dW`, `D(z) = e strength^2 (1 - g^2) / batch_size`, whose
stationary density is

    density(z) ∝ exp(2 int -V' / D) / D.                                                   (1)

At the threshold the drift is `-c z^3`, so the gap spreads as `(e / batch_size)^(1/4)`, not as the square
root, and the transition is smeared over strengths `|s - 1| ~ (e / batch_size)^(1/2)`. Derived here.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.bifurcation.response import SOFTMAX, Response
from mfgjax.bifurcation.two_expert import drift


class StationaryGap(eqx.Module):
    """The density (1) on a grid, with what an experiment measures.

    Attributes:
        gap, density: grid and normalised density.
        mean_imbalance: mean of `|g(gap)|`, the expected absolute load gap of a router.
        rms_gap: root mean square of the gap.
    """

    gap: Float[Array, " grid"]
    density: Float[Array, " grid"]
    mean_imbalance: Float[Array, ""]
    rms_gap: Float[Array, ""]


def stationary_gap(
    strength: Float[Array, ""],
    asymmetry: Float[Array, ""],
    step_over_batch: Float[Array, ""],
    response: Response = SOFTMAX,
    *,
    grid: int = 4001,
) -> StationaryGap:
    """Stationary distribution of the gap at finite step size and batch size.

    Args:
        strength, asymmetry: as in `two_expert_states`.
        step_over_batch: `step_size * decay / batch_size`, dimensionless; small against 1.
        response: static.
        grid: static number of points.
    """
    reach = jnp.abs(asymmetry) + strength + 1.0
    gap = jnp.linspace(-1.0, 1.0, grid, dtype=strength.dtype) * reach
    width = gap[1] - gap[0]
    spread = step_over_batch * strength**2 * response_variance(gap, response)
    slope = 2.0 * drift(gap, strength, asymmetry, response) / spread
    climb = jnp.concatenate([jnp.zeros_like(gap[:1]), 0.5 * width * (slope[1:] + slope[:-1])])
    exponent = jnp.cumsum(climb) - jnp.log(spread)
    weight = jnp.exp(exponent - exponent.max())
    density = weight / (weight.sum() * width)
    mean = lambda value: (value * density).sum() * width  # noqa: E731
    return StationaryGap(
        gap=gap,
        density=density,
        mean_imbalance=mean(jnp.abs(response.value(gap))),
        rms_gap=jnp.sqrt(mean(gap**2)),
    )


def response_variance(gap: Float[Array, "..."], response: Response) -> Float[Array, "..."]:
    """Variance `1 - g^2` of one token's choice (+1 or -1), kept positive in the tails."""
    value = response.value(gap)
    return jnp.maximum((1.0 - value) * (1.0 + value), jnp.finfo(gap.dtype).tiny ** 0.25)
