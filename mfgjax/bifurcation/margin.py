"""Distance to collapse: how far a fitted router is from the fold, as an alarm in training.

A fit gives quality and signed congestion; feedback is `-congestion / temperature`. The margin is the
feedback still missing to the fold of `collapse_folds`: positive, one stable state only; negative,
a collapsed state coexists and a disturbance (or a restart) can leave the router there for good.

That needs a congestion that is feedback. The signed congestion fitted to routing statistics is not: flat
logits alone make it negative (`mfgjax.estimate.null_congestion`). On the bundled run experts64, which
never collapses, it raises the alarm at 79 of 80 layers and checkpoints, initialisation included
(`python -m benchmarks.collapse_margin`), so `mfgjax track` does not show a margin.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mfgjax.bifurcation.collapse_fold import collapse_folds


class CollapseMargin(eqx.Module):
    """Distance to the nearest fold of one router.

    Attributes:
        feedback: `-congestion / temperature`.
        onset: feedback at which a collapsed state first exists beside the balanced one.
        spinodal: feedback at which the balanced state vanishes; infinite: it never does.
        margin: `onset - feedback`; negative inside the hysteretic region.
        quality_distance: margin over the gradient of `onset` in quality (2-norm), in logits: to first
            order, the smallest change of quality that reaches the fold.
        leader: expert that would take over.
    """

    feedback: Float[Array, "*batch"]
    onset: Float[Array, "*batch"]
    spinodal: Float[Array, "*batch"]
    margin: Float[Array, "*batch"]
    quality_distance: Float[Array, "*batch"]
    leader: Int[Array, "*batch"]

    @property
    def hysteretic(self) -> Bool[Array, "*batch"]:
        """A second stable state exists."""
        return self.margin < 0


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

    def onset(q):
        folds = collapse_folds(q)
        return folds.onset, folds

    slope, folds = jax.grad(onset, has_aux=True)(scaled)
    margin = folds.onset - feedback
    valid = jnp.isfinite(quality).all() & jnp.isfinite(feedback)
    return CollapseMargin(
        feedback=feedback,
        onset=jnp.where(valid, folds.onset, jnp.nan),
        spinodal=jnp.where(valid, folds.spinodal, jnp.nan),
        margin=jnp.where(valid, margin, jnp.nan),
        quality_distance=jnp.where(valid, margin / jnp.linalg.norm(slope), jnp.nan),
        leader=folds.leader,
    )


class MarginInterval(NamedTuple):
    """Percentile interval of the margin over resamples, and the share of them past the fold."""

    estimate: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    hysteretic_share: Float[Array, ""]


def margin_interval(
    quality: Float[Array, "resample experts"],
    congestion: Float[Array, " resample"],
    temperature: Float[Array, ""] | float = 1.0,
    *,
    level: float = 0.95,
) -> MarginInterval:
    """Margin with its percentile interval, from refits on resamples; row 0 is the full sample.

    Args:
        quality, congestion: the fit on the full sample first, then one row per resample.
        level: static coverage of the interval.

    Raises:
        ValueError: fewer than two rows, or `level` outside (0, 1).
    """
    if quality.shape[0] < 2 or not 0.0 < level < 1.0:
        raise ValueError(
            f"an interval needs the full sample and at least one resample (got {quality.shape[0]} "
            f"rows) and a level between 0 and 1 (got {level})"
        )
    margins = jax.vmap(lambda q, c: collapse_margin(q, c, temperature).margin)(quality, congestion)
    tail = 0.5 * (1.0 - level)
    ends = jnp.quantile(margins[1:], jnp.asarray([tail, 1.0 - tail], margins.dtype))
    return MarginInterval(margins[0], ends[0], ends[1], (margins[1:] < 0).mean(dtype=margins.dtype))


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


def check_margins(margin: CollapseMargin, *, name: str = "router") -> CollapseMargin:
    """Returns `margin` if every instance is finite; otherwise raises with the failing indices."""
    bad = ~np.isfinite(np.asarray(margin.margin))
    if not bad.any():
        return margin
    first = [tuple(int(i) for i in index) for index in np.argwhere(bad)[:8]]
    raise RuntimeError(
        f"{bad.sum()} of {bad.size} {name}(s) have no margin, first at {first}: their quality or "
        "congestion is not finite; look at the status of the fit"
    )
