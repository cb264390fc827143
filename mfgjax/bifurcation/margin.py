"""Distance to collapse: how far a fitted router is from the fold, as an alarm in training.

A fit gives quality and signed congestion; feedback is `-congestion / temperature`. The margin is the
feedback still missing to the fold of `collapse_folds`: positive, one stable state only; negative,
a collapsed state coexists and a disturbance (or a restart) can leave the router there for good.

That needs a congestion that is feedback. The signed congestion fitted to routing statistics is not: flat
logits alone make it negative (`mfgjax.estimate.null_congestion`). On the bundled runs it
raises the alarm at 8 of 160 layers and checkpoints, random initialisation included, and not where one
expert is chosen by 97% of tokens (`python -m benchmarks.studies.collapse_margin`), so `mfgjax track` does not show
a margin.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfgjax.bifurcation.collapse_fold import collapse_folds


class CollapseMargin(eqx.Module):
    """Distance to the nearest fold of one router.

    Attributes:
        feedback: `-congestion / temperature`.
        onset: feedback at which a collapsed state first exists beside the balanced one.
        spinodal: feedback at which the balanced state vanishes; infinite: it never does.
        margin: `onset - feedback`; negative inside the hysteretic region.
        leader: expert that would take over.
    """

    feedback: Float[Array, "*batch"]
    onset: Float[Array, "*batch"]
    spinodal: Float[Array, "*batch"]
    margin: Float[Array, "*batch"]
    leader: Int[Array, "*batch"]


def collapse_margin(
    quality: Float[Array, " experts"],
    congestion: Float[Array, ""],
    temperature: Float[Array, ""] | float = 1.0,
) -> CollapseMargin:
    """Distance to collapse of a router with this quality and signed congestion.

    Differentiable in all arguments (`jax.grad(lambda *a: collapse_margin(*a).margin)`); one instance,
    batch with `jax.vmap`. Inputs that are not finite give NaN.

    Args:
        quality: value of each expert, in logits.
        congestion: signed congestion of the fit; negative when load attracts load.
        temperature: softmax temperature, in logits.
    """
    scaled = quality / temperature
    feedback = -congestion / temperature

    folds = collapse_folds(scaled)
    valid = jnp.isfinite(quality).all() & jnp.isfinite(feedback)
    return CollapseMargin(
        feedback=feedback,
        onset=jnp.where(valid, folds.onset, jnp.nan),
        spinodal=jnp.where(valid, folds.spinodal, jnp.nan),
        margin=jnp.where(valid, folds.onset - feedback, jnp.nan),
        leader=folds.leader,
    )


def aux_loss_coef_to_avoid_collapse(
    quality: Float[Array, " experts"],
    congestion: Float[Array, ""],
    temperature: Float[Array, ""] | float = 1.0,
    *,
    safety: float = 0.0,
) -> Float[Array, ""]:
    """Smallest further auxiliary-loss coefficient that puts the margin at `safety`.

    The loss adds congestion `aux_loss_coef * experts` (arXiv 2604.04230, explicit congestion; load
    normalised to sum 1), so `aux_loss_coef = temperature * max(safety - margin, 0) / experts`. That
    conversion is the paper's, for the game; whether a given training run follows it is for
    `mfgjax.estimate` to measure. Differentiable where positive.
    """
    margin = collapse_margin(quality, congestion, temperature).margin
    return temperature * jnp.maximum(safety - margin, 0.0) / quality.shape[-1]
