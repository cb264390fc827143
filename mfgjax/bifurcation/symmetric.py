"""M equal experts: fold, Maxwell point and spinodal of collapse, exactly.

With zero bias the equilibria of `load ∝ exp(feedback * load)` (the mean-field Potts model) take two
values only: `heavy` experts share one load, the rest another. With `y` their log ratio,

    feedback(y) = y (h e^y + M - h) / (e^y - 1),      h = heavy,                          (1)

a curve that starts at `feedback = M`, `y = 0`, where the uniform load loses stability (spinodal). For
`h < M / 2` it first runs back to a fold, the root `y > 0` of

    h e^y - (M - h) e^{-y} + M - 2h = M y.                                                (2)

So for M >= 3 collapse onto one expert is first-order: possible from the fold, preferred from the
Maxwell point `2 (M - 1) ln(M - 1) / (M - 2)`, forced at M. Derived here; the Maxwell point is the
transition of the mean-field Potts model (Wu, Rev. Mod. Phys. 54, 235, 1982).
"""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class SymmetricThresholds(eqx.Module):
    """Where collapse of equal experts becomes possible, preferred and forced, in feedback.

    Attributes:
        fold: smallest feedback with a collapsed state (equal to `spinodal` for two experts).
        maxwell: feedback at which balance and collapse have the same potential; M = 2: 2.
        spinodal: feedback at which the uniform load loses stability: M.
        fold_load: load of the leading expert at the fold.
        maxwell_load: load of the leading expert at the Maxwell point: (M - 1) / M.
    """

    fold: Float[Array, "*batch"]
    maxwell: Float[Array, "*batch"]
    spinodal: Float[Array, "*batch"]
    fold_load: Float[Array, "*batch"]
    maxwell_load: Float[Array, "*batch"]


def branch_feedback(
    log_ratio: Float[Array, ""], experts: Float[Array, ""] | int, heavy: Float[Array, ""] | int = 1
) -> Float[Array, ""]:
    """Formula (1), smooth through `log_ratio = 0`; negative values make the `heavy` ones light."""
    small = jnp.abs(log_ratio) < 1e-8
    safe = jnp.where(small, 1.0, log_ratio)
    per_unit = jnp.where(small, 1.0 - 0.5 * log_ratio, safe / jnp.expm1(safe))
    return per_unit * (heavy * jnp.exp(log_ratio) + (experts - heavy))


def branch_load(
    log_ratio: Float[Array, ""], experts: Float[Array, ""] | int, heavy: Float[Array, ""] | int = 1
) -> Float[Array, ""]:
    """Load of one heavy expert on (1)."""
    return 1.0 / (heavy + (experts - heavy) * jnp.exp(-log_ratio))


def fold_log_ratio(
    experts: Float[Array, ""], heavy: Float[Array, ""] | int = 1, *, max_steps: int = 40
) -> Float[Array, ""]:
    """Root `y > 0` of (2); zero where `heavy >= experts / 2` (no fold, the curve starts upwards).

    Newton from a start to the right of the root, where (2) is convex: monotone, cannot overshoot.
    Exact derivative is not attached: (2) being stationary, `fold` needs none to first order.
    """
    size = jnp.asarray(experts)
    excess = jnp.log(size / heavy)
    start = excess + jnp.log1p(jnp.abs(excess)) + 1.0
    tol = 4.0 * jnp.finfo(size.dtype).eps

    def unfinished(state):
        y, step, count = state
        return (jnp.abs(step) > tol * y) & (count < max_steps)

    def newton(state):
        y, _, count = state
        up, down = heavy * jnp.exp(y), (size - heavy) * jnp.exp(-y)
        step = (up - down + size - 2 * heavy - size * y) / (up + down - size)
        return y - step, step, count + 1

    y, _, _ = lax.while_loop(unfinished, newton, (start, start, 0))
    return lax.stop_gradient(jnp.where(size > 2 * heavy, y, 0.0))


def symmetric_thresholds(experts: Float[Array, ""]) -> SymmetricThresholds:
    """Fold, Maxwell point and spinodal of `experts` equal experts.

    Args:
        experts: M >= 2, as a float (traced; batch with `jax.vmap`). The formulas hold for any real
            M; NaN below 2.
    """
    size = jnp.where(jnp.asarray(experts) >= 2, experts, jnp.nan)
    y = fold_log_ratio(size)
    many = size > 2
    safe = jnp.where(many, size, 3.0)
    maxwell = jnp.where(many, 2.0 * (safe - 1.0) * jnp.log(safe - 1.0) / (safe - 2.0), size)
    return SymmetricThresholds(
        fold=branch_feedback(y, size),
        maxwell=maxwell,
        spinodal=size,
        fold_load=branch_load(y, size),
        maxwell_load=(size - 1.0) / size,
    )


def collapse_potential(
    log_ratio: Float[Array, ""], experts: Float[Array, ""] | int, feedback: Float[Array, ""]
) -> Float[Array, ""]:
    """Potential along the line of one leading expert, relative to the uniform load.

    `sum_i load_i log(M load_i) - (feedback / 2) (sum_i load_i^2 - 1 / M)`, with the leading expert
    `exp(log_ratio)` times as loaded as each other one. Its minima are the stable states.
    """
    lead = branch_load(log_ratio, experts)
    rest = lead * jnp.exp(-log_ratio)
    others = experts - 1
    entropy = lead * jnp.log(experts * lead) + others * rest * jnp.log(experts * rest)
    return entropy - 0.5 * feedback * (lead**2 + others * rest**2 - 1.0 / experts)
