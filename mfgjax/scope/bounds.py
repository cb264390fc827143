"""How far the model's equilibrium can be from the one with top-K choice, or with coupled layers.

Two bounds each. The paper's divide by `1 - gamma/(2 lambda)` and are infinite (vacuous) as soon as
congestion reaches twice the temperature, which every checkpoint of its Table 1 does. The others need
no contraction: the potential is lambda-strongly convex in the L1 norm (Pinsker), so

    |mu - mu*|_1 <= sqrt(2 KL(mu || Phi(mu))),                                             (1)
    |mu*(q) - mu*(q')|_1 <= (max - min of q - q') / (2 lambda)                             (2)

for every congestion >= 0. (1) is the duality gap of `mfgjax.game`; a fixed point of the top-K response
keeps the share 1 - d of `Phi(mu)` and rescales it, so its KL is `-log(1 - d)`. For (2) add the two
optimality conditions: `lambda |D|^2 <= <q - q', D>` with `D = mu - mu'` summing to 0. [derived]

Distances are at most 2, the diameter of the simplex; a bound that says no more is infinite.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfgjax.scope.contraction import worst_case_rate


def anti_concentration_bound(
    spread: Float[Array, "*batch"], congestion: Float[Array, "*batch"], experts: int
) -> Float[Array, "*batch"]:
    """`1/M + B0/gamma`, Theorem 5.2: no expert has more load at equilibrium; 1 where it says nothing.

    Below 1 exactly where congestion exceeds `gamma_c` (`critical_congestion`). It
    bounds the model's load: an observed one that is no equilibrium can be larger.

    Args:
        spread: B0, largest minus smallest quality, in logits.
        congestion: >= 0, of the same temperature.
        experts: M. Static.
    """
    above = congestion > 0
    bound = 1 / experts + spread / jnp.where(above, congestion, 1)
    return jnp.where(above, jnp.minimum(bound, 1), 1)


def top_k_bound(
    congestion: Float[Array, "*batch"],
    top_k: int,
    experts: int,
    temperature: float | Float[Array, "*batch"] = 1.0,
) -> Float[Array, "*batch"]:
    """`2 (1 - K/M) / (1 - rho)`, Theorem 5.6; infinite where vacuous."""
    return _over_slack(2 * (1 - top_k / experts), worst_case_rate(congestion, temperature))


def top_k_bound_from_mass(dropped: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """`sqrt(-2 log(1 - d))` of (1), from the mass d that the truncation drops.

    Args:
        dropped: share of the untruncated response outside the top K, at the truncated fixed point;
            at most `1 - K/M`.
    """
    bound = jnp.sqrt(-2 * jnp.log1p(-dropped))
    return jnp.where(bound <= 2, bound, jnp.inf)


def coupling_bound(
    spread: Float[Array, "*batch"],
    congestion: Float[Array, "*batch"],
    temperature: float | Float[Array, "*batch"] = 1.0,
) -> Float[Array, "*batch"]:
    """`(eps / lambda) / (1 - rho)`, Theorem 5.8; infinite where vacuous.

    Args:
        spread: continuation spread of downstream values, in logits.
        congestion: of the layer.
        temperature: of the softmax, in logits.
    """
    return _over_slack(spread / temperature, worst_case_rate(congestion, temperature))


def coupling_bound_without_contraction(
    spread: Float[Array, "*batch"], temperature: float | Float[Array, "*batch"] = 1.0
) -> Float[Array, "*batch"]:
    """`eps / (2 lambda)` of (2): for every congestion >= 0, and at least twice as tight."""
    bound = spread / (2 * temperature)
    return jnp.where(bound <= 2, bound, jnp.inf)


def _over_slack(numerator, rate):
    slack = 1 - rate
    bound = numerator / jnp.where(slack > 0, slack, 1)
    return jnp.where((slack > 0) & (bound <= 2), bound, jnp.inf)
