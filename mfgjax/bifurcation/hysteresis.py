"""Hysteresis: the asymmetry swept slowly up and down, and where the load jumps.

Infinitely slowly the gap follows its branch to the fold, so the jumps lie at `+-fold_asymmetry`. At a
finite rate they come late, by `2.338 rate^(2/3) / c^(1/3)` with `c = |V'''| / 2` at the fold (passage
through a saddle-node; 2.338 is the first zero of the Airy function). Derived here.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.bifurcation.mean_field import integrate_gap
from mfgjax.bifurcation.response import SOFTMAX, Response
from mfgjax.bifurcation.two_expert import drift, fold_asymmetry

_AIRY_ZERO = 2.338107410459767


class HysteresisLoop(eqx.Module):
    """One sweep up and one down.

    Attributes:
        asymmetry: the field at each sample of the sweep up (the sweep down is its mirror).
        up, down: load gap on each sweep, both in the order of `asymmetry`.
        jump_up, jump_down: asymmetry at which the load gap changes sign on each sweep; NaN if not.
        area: area between the sweeps, in load gap times asymmetry.
    """

    asymmetry: Float[Array, " samples"]
    up: Float[Array, " samples"]
    down: Float[Array, " samples"]
    jump_up: Float[Array, ""]
    jump_down: Float[Array, ""]
    area: Float[Array, ""]


def sweep_asymmetry(
    strength: Float[Array, ""],
    reach: Float[Array, ""],
    rate: Float[Array, ""],
    response: Response = SOFTMAX,
    *,
    samples: int = 801,
) -> HysteresisLoop:
    """Sweep the asymmetry from `-reach` to `reach` and back in the mean field.

    Args:
        strength: feedback strength.
        reach: largest asymmetry; should exceed `fold_asymmetry(strength)`.
        rate: asymmetry per decay time. Below about 1e-3 the jumps are within a few per cent of the
            folds.
        response: static.
        samples: static number of samples of each sweep.
    """
    asymmetry = jnp.linspace(-1.0, 1.0, samples, dtype=strength.dtype) * reach
    times = (asymmetry + reach) / rate

    def leg(sign):
        start = -sign * (reach + strength)  # beyond every equilibrium: falls on the outer branch
        settled = integrate_gap(
            start,
            jnp.full((1,), 50.0, strength.dtype),
            strength,
            -sign * reach,
            jnp.zeros_like(rate),
            response,
        )[-1]
        return integrate_gap(settled, times, strength, -sign * reach, sign * rate, response)

    gaps = jax.vmap(leg)(jnp.asarray([1.0, -1.0], strength.dtype))
    up, down = response.value(gaps[0]), response.value(gaps[1])[::-1]
    return HysteresisLoop(
        asymmetry=asymmetry,
        up=up,
        down=down,
        jump_up=_crossing(asymmetry, up),
        jump_down=_crossing(asymmetry, down),
        area=jnp.trapezoid(down - up, asymmetry),
    )


def _crossing(asymmetry, load_gap):
    rises = (load_gap[:-1] < 0) & (load_gap[1:] >= 0)
    at = jnp.argmax(rises)
    low, high = load_gap[at], load_gap[at + 1]
    where = asymmetry[at] - low * (asymmetry[at + 1] - asymmetry[at]) / (high - low)
    return jnp.where(rises.any(), where, jnp.nan)


def jump_delay(
    strength: Float[Array, ""], rate: Float[Array, ""], response: Response = SOFTMAX
) -> Float[Array, ""]:
    """How far past the fold a slow sweep escapes, to leading order in `rate`; strength > 1."""
    gap = response.turning(strength)
    curvature = jax.grad(jax.grad(drift))(gap, strength, jnp.zeros_like(gap), response)
    return _AIRY_ZERO * rate ** (2.0 / 3.0) / jnp.abs(0.5 * curvature) ** (1.0 / 3.0)


def expected_jump(
    strength: Float[Array, ""], rate: Float[Array, ""], response: Response = SOFTMAX
) -> Float[Array, ""]:
    """Asymmetry at which a slow sweep up jumps: the fold plus `jump_delay`."""
    return fold_asymmetry(strength, response) + jump_delay(strength, rate, response)
