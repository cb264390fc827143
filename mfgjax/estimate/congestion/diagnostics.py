"""Numbers that stand beside an estimate and say how far to trust the model (arXiv 2604.04230)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Bool, Float

IN_SCOPE_CONGESTION = 0.05
"""The paper calls a layer in scope when its L1 estimate exceeds this (Table 5)."""


def quality_spread(quality: Float[Array, "*batch expert"]) -> Float[Array, "*batch"]:
    """`B0 = max q - min q` (Definition 5.1)."""
    return quality.max(-1) - quality.min(-1)


def critical_congestion(spread: Float[Array, "*batch"], experts: int) -> Float[Array, "*batch"]:
    """`gamma_c = M B0 / (M - 1)`: above it no expert can take the whole load (Theorem 5.2)."""
    return spread * experts / (experts - 1)


def safety_margin(
    congestion: Float[Array, "*batch"], spread: Float[Array, "*batch"], experts: int
) -> Float[Array, "*batch"]:
    """Congestion over its critical value. NaN where the qualities are all equal."""
    xp = np if isinstance(spread, np.ndarray) else jnp  # on the host nothing is compiled
    critical = critical_congestion(spread, experts)
    return congestion / xp.where(critical > 0, critical, xp.nan)


def entropy(load: Float[Array, "*batch expert"]) -> Float[Array, "*batch"]:
    """Entropy of the load in nats. Its derivative in the load of a dead expert, which is infinite,
    is given as 0, so that the derivatives in all other loads are right and finite."""
    alive = load != 0  # a NaN stays one
    return -jnp.where(alive, xlogy(load, jnp.where(alive, load, 1)), 0).sum(-1)


def normalized_entropy(load: Float[Array, "*batch expert"]) -> Float[Array, "*batch"]:
    """Entropy of the load over log M: 1 when balanced, 0 when one expert takes all."""
    return entropy(load) / jnp.log(load.shape[-1])


def scale_sensitivity(
    congestion: Float[Array, "*batch"],
    quality: Float[Array, "*batch expert"],
    load: Float[Array, "*batch expert"],
    temperature: float | Float[Array, "*batch"] = 1.0,
) -> Float[Array, "*batch"]:
    """What the signed congestion would rise by per unit of relative rise in the scale of the logits.

    With `phi = softmax((c quality - congestion load) / temperature)` the kl fit solves
    `E_phi[load] = sum load^2`; differentiated in the scale c at c = 1 (derived, implicit function theorem)

        d congestion / d c = Cov_phi(quality, load) / Var_phi(load),

    about `congestion + temperature M` where the load is nearly uniform and near its own response, and
    not elsewhere. Differentiable in every argument; pass the congestion as a function of the others
    for the total derivative.

    Args:
        congestion: the signed (kl) estimate of the same quality and load. At Definition 3.1's estimate
            the formula gives no derivative.
        quality: expert qualities, any common shift.
        load: dispatch fractions.
        temperature: of the fit. Traced.

    Returns:
        NaN where the response has no spread of load, or the congestion is not finite.
    """
    scale = jnp.broadcast_to(jnp.asarray(temperature, load.dtype), congestion.shape)
    known = jnp.isfinite(congestion)
    safe = jnp.where(known, congestion, 0)
    response = jax.nn.softmax((quality - safe[..., None] * load) / scale[..., None], axis=-1)
    away = load - (response * load).sum(-1, keepdims=True)
    about = quality - (response * quality).sum(-1, keepdims=True)
    variance = (response * away**2).sum(-1)
    known = known & (variance > 0)
    return (response * away * about).sum(-1) / jnp.where(known, variance, jnp.nan)


def explicit_congestion(aux_loss_coef: float, experts: int) -> float:
    """`gamma_explicit = alpha M`, what the auxiliary loss asks for (Definition 3.3)."""
    return aux_loss_coef * experts


def in_scope(congestion: Float[Array, "*batch"]) -> Bool[Array, "*batch"]:
    """Whether the L1 estimate clears the paper's floor of 0.05."""
    return congestion > IN_SCOPE_CONGESTION
