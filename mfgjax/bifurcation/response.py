"""How the load gap of two experts answers to their score gap, for two kinds of routing.

A response `g` is odd, rises from -1 to 1, has slope 1 at zero and bends inwards (`g'' < 0` for
positive gaps). Nothing else about the routing enters the bifurcation picture, so soft and hard
routing share every formula: folds lie where `strength g'(gap) = 1`.

* `SOFTMAX`: `g = tanh`. Sampling an expert from softmax scores, and equally hard top-1 routing
  under independent Gumbel token noise.
* `NOISY_TOP1`: `g(z) = erf(sqrt(pi) z / 2)`. Hard top-1 routing whose score gap carries Gaussian
  token noise.

Derived here, following the model of arXiv 2605.29121 (of which only the abstract was at hand).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jax.scipy.special import erf
from jaxtyping import Array, Float

_ROOT_PI = math.sqrt(math.pi)


@dataclass(frozen=True)
class Response:
    """One response with what the closed forms need. Static under jit; elementwise.

    Attributes:
        name: label in results and figures.
        value: `g(gap)`, the load gap.
        slope: `g'(gap)`, 1 at zero.
        integral: `int_0^gap g`, the gain part of the potential.
        turning: the positive gap with `strength * g'(gap) = 1`, for `strength >= 1`.
        cubic: `c` in `g(z) = z - c z^3 + ...`; sets the cusp.
    """

    name: str
    value: Callable[[Float[Array, "..."]], Float[Array, "..."]]
    slope: Callable[[Float[Array, "..."]], Float[Array, "..."]]
    integral: Callable[[Float[Array, "..."]], Float[Array, "..."]]
    turning: Callable[[Float[Array, "..."]], Float[Array, "..."]]
    cubic: float


def _sech_squared(gap):
    return (1.0 - jnp.tanh(gap)) * (1.0 + jnp.tanh(gap))


def _log_cosh(gap):
    return jnp.logaddexp(gap, -gap) - math.log(2.0)


def _softmax_turning(strength):
    # arccosh(sqrt(s)) = arcsinh(sqrt(s - 1)): keeps its digits near the cusp
    return jnp.arcsinh(jnp.sqrt(strength - 1.0))


def _erf_value(gap):
    return erf(0.5 * _ROOT_PI * gap)


def _erf_slope(gap):
    return jnp.exp(-0.25 * math.pi * gap**2)


def _erf_integral(gap):
    return gap * _erf_value(gap) + (2.0 / math.pi) * jnp.expm1(-0.25 * math.pi * gap**2)


def _erf_turning(strength):
    return (2.0 / _ROOT_PI) * jnp.sqrt(jnp.log(strength))


SOFTMAX = Response("softmax", jnp.tanh, _sech_squared, _log_cosh, _softmax_turning, 1.0 / 3.0)
NOISY_TOP1 = Response(
    "noisy top-1", _erf_value, _erf_slope, _erf_integral, _erf_turning, math.pi / 12.0
)
