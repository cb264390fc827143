"""Small problems solved twice: by mfgjax, and by methods that share no code with it.

The reference equilibrium of quality `q` at congestion `gamma` (temperature 1, linear cost) is

    f_i(c) = omega(log gamma + q_i - c) / gamma,     sum_i f_i(c) = 1,                       (1)

with scipy's Wright omega function and a bisection of the scalar c, in float64 on the host.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import wrightomega

from mfgjax.equilibrium import solve_equilibrium
from mfgjax.estimate.congestion.fit import fit_congestion
from mfgjax.game import Game
from mfgjax.numerics.status import Status

GAMES, EXPERTS = 32, 16
LARGEST_BOUND = {"float32": 1e-3, "float64": 1e-9}
"""A certificate above this is honest but useless. float32 loads carry about 1e-5 at congestion 200."""
GRADIENT_RTOL = {"float32": 1e-3, "float64": 1e-6}
"""float64: the finite difference of the reference is good to about 1e-8."""
FIT_RTOL = {"float32": 2e-2, "float64": 1e-6}
"""float32: a load known to 1e-7 leaves 1e-3 of a small congestion open."""
MATMUL_RTOL = 1e-5
"""Above this the device multiplies float32 at reduced precision (TF32, bfloat16)."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: what was compared, with its dtype.
        passed: whether it held.
        found: what was measured, for people.
        advice: what to do if it did not hold.
    """

    name: str
    passed: bool
    found: str
    advice: str = ""


def run_self_test(dtypes: Sequence[str] = ("float32", "float64")) -> list[Check]:
    """Equilibria with certificate, gradients and fits in each dtype; a matrix product.

    The l1 fit, whose compilation takes as long as all the rest, is tried in float32 only.
    """
    checks = []
    for dtype in dtypes:
        with jax.enable_x64(dtype == "float64"):
            checks += _game_checks(dtype)
    return [*checks, _matmul_check()]


def reference_loads(quality: np.ndarray, congestion: np.ndarray) -> np.ndarray:
    """Equilibrium (1) of each row of `quality` at the congestion of that row, float64."""
    scale = congestion[:, None]
    low = quality.min(-1, keepdims=True) - scale  # here every f_i(c) >= 1 / experts
    high = quality.max(-1, keepdims=True) + np.log(quality.shape[-1])
    for _ in range(200):
        middle = (low + high) / 2
        excess = wrightomega(np.log(scale) + quality - middle).sum(-1, keepdims=True) / scale > 1
        low, high = np.where(excess, middle, low), np.where(excess, high, middle)
    return wrightomega(np.log(scale) + quality - (low + high) / 2) / scale


def _game_checks(dtype: str) -> list[Check]:
    rng = np.random.default_rng(0)
    quality = (2 * rng.standard_normal((GAMES, EXPERTS))).astype(dtype)
    congestion = np.geomspace(0.1, 200, GAMES).astype(dtype)
    exact = reference_loads(quality.astype(np.float64), congestion.astype(np.float64))
    direction = rng.standard_normal(EXPERTS)

    def pulled(gamma, values):
        solution = solve_equilibrium(Game(values, gamma))
        return (jnp.asarray(direction, dtype) * solution.load).sum(), solution

    types = rng.dirichlet(np.ones(2), GAMES).astype(dtype)
    typed = Game(np.stack([quality, quality[:, ::-1]], 1), congestion, 1.0, types)
    mixed = jax.device_get(jax.jit(jax.vmap(solve_equilibrium))(typed))
    solve = jax.jit(jax.vmap(jax.value_and_grad(pulled, has_aux=True)))
    (_, solution), slope = jax.device_get(solve(jnp.asarray(congestion), jnp.asarray(quality)))
    return [
        _certificate_check(dtype, solution, exact),
        _types_check(dtype, typed, mixed),
        _gradient_check(dtype, slope, quality, congestion, direction),
        _fit_check(dtype, quality, exact.astype(dtype), congestion),
    ]


def _certificate_check(dtype: str, solution, exact: np.ndarray) -> Check:
    error = np.abs(solution.load.astype(np.float64) - exact).sum(-1)
    bound = solution.error_bound.astype(np.float64)
    solved = int((solution.status == Status.CONVERGED).sum())
    honest = bool((error <= bound + 1e-14).all())  # the bisection's own error
    return Check(
        f"equilibria, {dtype}",
        solved == GAMES and honest and bool(bound.max() <= LARGEST_BOUND[dtype]),
        f"{solved} of {GAMES} certified; largest error {error.max():.1e}, largest certificate "
        f"{bound.max():.1e}" + ("" if honest else "; AN ERROR EXCEEDS ITS CERTIFICATE"),
        "do not trust equilibria on this device: report it with `mfgjax doctor --json`",
    )


def _types_check(dtype: str, game: Game, solution) -> Check:
    """Each type's fractions against their response in numpy: products of loads and weights count."""
    rows, weight, quality, congestion = (
        np.asarray(leaf, np.float64)
        for leaf in (solution.type_load, game.weight, game.quality, game.congestion)
    )
    price = congestion[:, None] * np.einsum("bk,bki->bi", weight, rows)
    net = quality - price[:, None]
    answer = np.exp(net - net.max(-1, keepdims=True))
    answer /= answer.sum(-1, keepdims=True)
    away = (weight * np.abs(answer - rows).sum(-1)).sum(-1)
    bound = solution.error_bound.astype(np.float64)
    solved = int((solution.status == Status.CONVERGED).sum())
    worst = max(float(away.max()), float(bound.max()))
    return Check(
        f"equilibria of two types, {dtype}",
        solved == GAMES and worst <= LARGEST_BOUND[dtype],
        f"{solved} of {GAMES} certified; largest residual in numpy {away.max():.1e}, largest "
        f"certificate {bound.max():.1e}",
        "do not trust equilibria of several types on this device: products may be rounded",
    )


def _gradient_check(dtype: str, slope, quality, congestion, direction) -> Check:
    values, gamma = quality.astype(np.float64), congestion.astype(np.float64)
    step = 1e-4 * gamma
    ahead, behind = reference_loads(values, gamma + step), reference_loads(values, gamma - step)
    expected = ((ahead - behind) @ direction) / (2 * step)
    error = np.abs(slope - expected).max() / np.abs(expected).max()
    return Check(
        f"gradient, {dtype}",
        bool(error <= GRADIENT_RTOL[dtype]),
        f"relative error {error:.1e} against finite differences",
        "do not differentiate on this device: report it with `mfgjax doctor --json`",
    )


def _fit_check(dtype: str, quality, load, congestion) -> Check:
    load = load / load.sum(-1, keepdims=True)
    errors, solved = {}, []
    for objective in ("l1", "kl") if dtype == "float32" else ("kl",):
        fit = jax.device_get(fit_congestion(jnp.asarray(quality), jnp.asarray(load), objective))
        errors[objective] = np.abs(fit.congestion / congestion - 1).max()
        solved.append(bool(fit.converged.all()))
    found = ", ".join(f"{error:.1e} ({name})" for name, error in errors.items())
    return Check(
        f"congestion fits, {dtype}",
        all(solved) and max(errors.values()) <= FIT_RTOL[dtype],
        f"known congestion found within {found}, relative",
        "do not trust fits on this device: report it with `mfgjax doctor --json`",
    )


def _matmul_check() -> Check:
    left, right = np.random.default_rng(0).standard_normal((2, 256, 256)).astype(np.float32)
    exact = left.astype(np.float64) @ right.astype(np.float64)
    product = np.asarray(jnp.asarray(left) @ jnp.asarray(right), np.float64)
    error = np.abs(product - exact).max() / np.abs(exact).max()
    return Check(
        "matrix product, float32",
        bool(error <= MATMUL_RTOL),
        f"relative error {error:.1e}",
        "the device rounds float32 products: set JAX_DEFAULT_MATMUL_PRECISION=highest",
    )
